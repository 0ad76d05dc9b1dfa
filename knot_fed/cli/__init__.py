"""The commands, one file each; what takes long to load is imported where it is called, so that help is instant."""
