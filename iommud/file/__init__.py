"""What an open file of the device is, whichever door it was opened by."""
