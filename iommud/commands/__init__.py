"""What people and systemd start. Heavy modules are imported only when it is known that they are
needed.
"""
