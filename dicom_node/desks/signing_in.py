"""What is said when somebody signs in: what she shows, what she gets, and how she is turned away."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.permissions import Person


class SecondFactorNeeded(Exception):
    """No session yet: the password is right, and a code is needed besides.

    Attributes
    ----------
    half
        What to show with the code (portal only).
    is_set_up
        False: the account needs a second factor and has none; the portal's account page is where one is set up.
    """

    def __init__(self, half: str = "", *, is_set_up: bool = True) -> None:
        self.half = half
        self.is_set_up = is_set_up
        super().__init__("a second factor is needed")


class SignInRefused(Exception):
    """No session: address, password or code is wrong (nobody is told which), or it is too soon to try again.

    Attributes
    ----------
    wait_s
        Seconds until the next attempt is looked at; 0 when it was looked at and was wrong.
    """

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__("signing in was refused")


@dataclass(frozen=True)
class Asked:
    """Somebody asks to be signed in.

    Attributes
    ----------
    address, agent
        From where, and with what program, as it says itself.
    device
        What this browser keeps from an earlier success, if anything.
    code
        Of her second factor.
    """

    email: str
    password: str
    address: str = ""
    agent: str = ""
    device: str = ""
    code: str = ""


@dataclass(frozen=True)
class SignedIn:
    """Who was signed in; the secret of her session, and what her browser keeps to be known by (portal only)."""

    person: Person
    secret: str
    device: str = ""
