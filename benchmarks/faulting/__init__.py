"""What `kills.py` and `faults.py` share: processes to attack, and an eye on checkpoints that isn't the library's."""
