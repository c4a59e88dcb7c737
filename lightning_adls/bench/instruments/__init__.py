"""What is read off while something runs: times, memory, graphs, and whether it is right."""
