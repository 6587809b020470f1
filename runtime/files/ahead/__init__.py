"""What is known of a job before it begins: what it does, needs and takes."""
