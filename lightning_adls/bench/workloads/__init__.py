"""What is measured: which model, called with what, on which device, compiled in which way."""
