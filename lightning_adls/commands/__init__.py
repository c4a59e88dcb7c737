"""What ``adls`` does: ``table.py`` lists its commands, ``start.py`` starts one."""
