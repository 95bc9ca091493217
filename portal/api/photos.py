"""What ``POST /api/v1/predict/skin-lesion`` does: one photograph in, an estimate or the reason why there is none."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from dicom_node.desks.predictions import Asked, UnknownModel
from dicom_node.desks.uploads import GivenFile
from dicom_node.record import predictions as record
from dicom_node.refusals import RefusalCode, Refused
from portal.api.fields import options_of
from portal.api.handlers import Api, owner_of
from portal.api.photo_body import PhotoForm, take_photo

MODEL = "skin-lesion"
"""The name that the route asks the desk for: an alias of ``api.aliases``, or the package."""


class PhotoApi(Api):
    """The handlers, with the one of the route for photographs."""

    async def photo(self, request: Request, wait: bool | None, key: str | None) -> Response:
        """One photograph of a lesion."""
        self.pay_image(request)
        # before the body is read: a full disk or a full queue need no upload to be said
        await self._run(self._check_model)
        await self._run(self._desk.check_admission, owner_of(request), 1)
        form = await take_photo(request, self._desk.spool, self._desk.settings.max_photo_mb * 1_000_000)
        asked = Asked(
            owner=owner_of(request),
            name=MODEL,
            cases=[[GivenFile(form.upload)]],
            photo=self._said(form),
            options={**options_of(form.fields, self._desk.destinations()), **self._callback(form)},
            language=self.language(request),
            idempotency_key=key,
            body_sha256=form.sha256,
            actor=str(request.state.actor),
        )
        rows = await self._run(self._desk.accept, asked)
        if not _waits(wait, form):
            return self._one(request, rows[0], accepted=True)
        rows = await self._finished(request, rows)
        return self._one(request, rows[0], accepted=rows[0]["state"] in record.UNFINISHED)

    def _check_model(self) -> None:
        try:
            self._desk.model(MODEL, "")
        except UnknownModel:
            raise Refused(RefusalCode.NOT_READY, f"the model {MODEL}", "not installed") from None

    @staticmethod
    def _said(form: PhotoForm) -> dict[str, Any]:
        said = form.said
        return {
            "patient": None if said.patient is None else {"id": said.patient.id, "system": said.patient.system},
            "order": said.order,
            "body_site": said.bodySite,
            "laterality": said.laterality,
            "declared": said.kind,
            "claimed": form.claimed,
        }

    def _callback(self, form: PhotoForm) -> dict[str, str]:
        name, known = form.said.callback, self._desk.webhooks()
        if name and name not in known:
            expected = f"callback: the name of a configured webhook, among: {', '.join(known) or 'none is configured'}"
            raise Refused(RefusalCode.VALIDATION, expected, "another word")
        return {"callback": name} if name else {}


def _waits(wait: bool | None, form: PhotoForm) -> bool:
    """Whether the call is held until the answer is there: as the URL says, else the body; not with `callback`."""
    told = form.said.wait if wait is None else wait
    return not form.said.callback if told is None else told
