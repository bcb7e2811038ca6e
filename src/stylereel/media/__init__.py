"""Images, video and sound in and out: the border between files and uint8 RGB arrays [H, W, 3]."""
