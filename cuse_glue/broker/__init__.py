"""One device for many clients that do not trust each other: a broker that touches none of them, and
a worker for each open file.

                     /dev/fuse                      every request, in the order in which they came
                         │
    broker    ───────────┴─ routes by the handle of the open file ─▶ pipe ─┐
    spawner   forks workers ahead of need                                  │
    worker    session of one open file, touches its clients' memory  ◀─────┘
              and writes the reply into /dev/fuse itself
    twin      shares nothing but its worker's descriptors

A client can make slow whatever belongs to it: its memory, its files of /proc, its descriptors, its
threads. Only the worker of the file that the client called touches these, so nobody else is
delayed. A page of a hostile file system can leave a worker in a sleep that SIGKILL does not end.
Its descriptors then stay open, and with them the connection, on which every client would hang. So
each worker has a twin, made by clone(CLONE_FILES). If the broker is gone, or tells everybody to go,
and the worker does not go, the twin closes the connection in the table of descriptors that they
share. The broker itself can always be killed.

A worker may reach a client by its thread's number until the request is answered: until then the
thread cannot leave its call. That holds because only the worker answers, and because nobody ends
the connection before the answer: the twin, which does end it, has killed the worker first.

Why not one worker for each user? One program that misbehaves would stop all others of that user.
For a service that runs virtual machines, these are all of them. A user who has many files open gets
workers up to a share, and one more for the rest.

Four other ways were measured. Answers by way of the broker, or a process that touches memory on
request, cost twice a round trip or more. The hop through the pipe costs from a third of it to six
times it, depending on where the processes run. So the worker of the only busy client reads the
connection itself (lending.py, borrower.py), until somebody else asks for something.
"""
