"""`lends_at_once.py ARGUMENT...`: iommud, whose broker lends the reading of a connection with the
second request in a row for the same worker, again and again. So nearly all requests come to their
workers as those of a busy client do, and the reading changes hands all the time.
"""

from cuse_glue.broker import lending
from iommud.commands.cli import main

lending.ENOUGH = lending.MOST = 1  # type: ignore[misc]
lending.PAUSE = lending.ALONE = 0.0  # type: ignore[misc]

if __name__ == "__main__":
    main()
