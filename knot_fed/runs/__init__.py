"""What a run leaves behind: its folder, its log, its tables and its trackers."""
