"""What ``adls doctor`` looks at: packages, the machine, places to write to and to read from."""
