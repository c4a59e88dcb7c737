"""What the scripts of the labs are made of; nothing here is needed to reuse the package."""
