"""The commands, one file each; slow imports happen inside the commands, so that help is instant."""
