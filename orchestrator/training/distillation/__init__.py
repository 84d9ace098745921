"""Knowledge distillation: a package learns from the answers and the layers of another one."""
