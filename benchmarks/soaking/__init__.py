"""A run watched from outside for half an hour: its data, its memory and open files, and whether they grow."""
