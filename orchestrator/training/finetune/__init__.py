"""Fine-tuning on labelled tasks, as the finetune stage, selection and the continual stage do it."""
