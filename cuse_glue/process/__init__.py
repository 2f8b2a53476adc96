"""Other people's processes: their threads, and the bytes of their memory."""
