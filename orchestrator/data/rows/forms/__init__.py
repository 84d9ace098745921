"""Forms of labels whose rows are more than a text and a label, one file each."""
