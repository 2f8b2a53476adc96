"""What a request is, whichever way it came in: who asks, which open file is asked, and how the
answer is made.
"""
