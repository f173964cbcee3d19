"""What an ask can fail with.

ActorError
├── AskTimeout        no answer before the deadline
├── ActorDead         the actor has ended and will not come back
├── ActorRestarted    it ended while it had the request; a new incarnation is or will be up
├── MailboxFull       it has more to read than its bound allows
├── UnhandledMessage  it has no handler for this type
└── WrongThread       a blocking ask on the thread that would have to answer it

ActorDead and ActorRestarted are pykka's ActorDeadError too: a pykka ref is to one incarnation, and a host
application that asks through one expects that.
"""

from __future__ import annotations

import pykka


class ActorError(Exception):
    """An actor could not answer."""


class AskTimeout(ActorError):
    """No answer came before the deadline."""


class ActorDead(ActorError, pykka.ActorDeadError):
    """The actor has ended and will not come back."""


class ActorRestarted(ActorError, pykka.ActorDeadError):
    """The actor ended while it had the request; whether it acted on it is unknown."""


class MailboxFull(ActorError):
    """The actor's mailbox is at its bound; nothing was taken."""


class UnhandledMessage(ActorError):
    """The actor has no handler for a message of this type."""


class WrongThread(ActorError):
    """A blocking wait on the event loop's own thread would never end."""
