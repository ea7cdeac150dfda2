"""One loop for every training, with its losses, random draws and checkpoints."""
