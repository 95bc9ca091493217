r"""An old-style client of LUNA: the thesis's own paths, methods and fields, and nothing else.

Standard library only, so that it can be read in any language.  A doctor asks about one photograph:

    python luna_client.py --node http://127.0.0.1:8080 --email doctor@clinic.example --password-file password.txt \
        --description "back, grows since spring" lesion.jpg

With `--admin` and `--admin-password-file` an administrator makes the doctor's account first.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Luna:
    """The service as one user sees it."""

    def __init__(self, node: str, *, header: str = "Authorization") -> None:
        self._node, self._header, self._token = node.rstrip("/"), header, ""

    def sign_in(self, email: str, password: str) -> dict[str, Any]:
        """Sign in; every later call is made with the token.  Who is told when to come back comes back."""
        for _ in range(3):
            try:
                told = self._call("POST", "/signin", {"email": email, "password": password})
                break
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    raise
                time.sleep(float(error.headers.get("Retry-After") or 1))
        else:
            raise RuntimeError("too many attempts to sign in")
        self._token = told["token"]
        return dict(told["user"])

    def sign_up(self, name: str, email: str, password: str, roles: list[str]) -> dict[str, Any]:
        """Make an account; for administrators."""
        said = {"username": name, "email": email, "password": password, "roles": roles}
        return dict(self._call("POST", "/api/auth/signup", said)["user"])

    def me(self) -> dict[str, Any]:
        """The account."""
        return dict(self._call("GET", "/api/me"))

    def process(self, photo: bytes, description: str) -> dict[str, Any]:
        """Send a photograph."""
        said = {"image": base64.b64encode(photo).decode(), "description": description}
        return dict(self._call("POST", "/api/imageProcess", said))

    def analyses(self) -> list[dict[str, Any]]:
        """Everything that this user has asked."""
        return list(self._call("GET", "/api/me/getAnalysisList"))

    def analysis(self, analysis_id: str) -> dict[str, Any]:
        """One of them, with its picture."""
        return dict(self._call("GET", f"/api/getAnalysis/{analysis_id}"))

    def sign_out(self) -> None:
        """End the token."""
        self._call("POST", "/logout")
        self._token = ""

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers[self._header] = f"Bearer {self._token}" if self._header == "Authorization" else self._token
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._node + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


def finished(luna: Luna, analysis_id: str, timeout_s: float) -> dict[str, Any]:
    """Look into the list until the analysis is over; then fetch it whole."""
    deadline = time.monotonic() + timeout_s
    while True:
        (found,) = (one for one in luna.analyses() if one["id"] == analysis_id)
        if found["state"] != "waiting":
            return luna.analysis(analysis_id)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not finished within {timeout_s:g} s; the analysis goes on without this client")
        time.sleep(1)


def told(analysis: dict[str, Any]) -> str:
    """What a doctor reads about it."""
    if analysis["state"] != "completed":
        advice = (analysis.get("refusal") or {}).get("advice", "")
        return f"{analysis['state']}: {analysis['message']} {advice}".strip()
    side = "at or above" if analysis["isMelanoma"] else "below"
    return f"melanoma {analysis['result']:.3f}, {side} the threshold. {analysis['disclaimer']}"


def main(arguments: list[str] | None = None) -> int:
    """Tell the whole story once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--node", required=True)
    parser.add_argument("--email", required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--name", default="LUNA client")
    parser.add_argument("--admin", default="", help="e-mail address of an administrator, to make the account first")
    parser.add_argument("--admin-password-file", type=Path)
    parser.add_argument("--header", choices=["Authorization", "x-access-token"], default="Authorization")
    parser.add_argument("--description", default="")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("photo", type=Path)
    said = parser.parse_args(arguments)
    password = said.password_file.read_text(encoding="utf-8").strip()
    if said.admin:
        administrator = Luna(said.node, header=said.header)
        administrator.sign_in(said.admin, said.admin_password_file.read_text(encoding="utf-8").strip())
        administrator.sign_up(said.name, said.email, password, ["user"])
        administrator.sign_out()
    luna = Luna(said.node, header=said.header)
    luna.sign_in(said.email, password)
    analysis = finished(luna, luna.process(said.photo.read_bytes(), said.description)["id"], said.timeout)
    sys.stdout.write(told(analysis) + "\n")
    luna.sign_out()
    return 0 if analysis["state"] == "completed" else 3


if __name__ == "__main__":
    sys.exit(main())
