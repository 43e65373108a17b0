"""The API server's questions and our answers: AdmissionReview of `admission.k8s.io/v1`. Pure functions."""

import base64
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from holdfast_webhook.injection import Patch, Refusal, inject
from holdfast_webhook.pods import Pod
from holdfast_webhook.settings import Settings

VERSION: Final = "admission.k8s.io/v1"
_KIND: Final = "AdmissionReview"


class NoReview(Exception):
    """What was sent is no question of an API server; the message is for people."""


class Verdict(StrEnum):
    """What became of a pod."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class _Resource(msgspec.Struct):
    group: str = ""
    resource: str = ""


class _Request(msgspec.Struct, rename="camel"):
    uid: str
    resource: _Resource = msgspec.field(default_factory=_Resource)
    sub_resource: str = ""
    operation: str = ""
    namespace: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    request: _Request


class Answer(NamedTuple):
    """An answer.

    Attributes:
        body: the AdmissionReview to send, as JSON.
        verdict: what became of the pod.
        subject: namespace and name of the pod, for the log.
        sentence: why it was refused; else empty.
    """

    body: bytes
    verdict: Verdict
    subject: str
    sentence: str = ""


def answer(body: bytes, settings: Settings) -> Answer:
    """Answer a question. One for a dry run gets the same answer: nothing is done but to answer.

    Args:
        body: an AdmissionReview as JSON.
        settings: of the installation.

    Raises:
        NoReview: the body is none.
    """
    try:
        review = msgspec.json.decode(body, type=_Review)
        if (review.api_version, review.kind) != (VERSION, _KIND):
            raise NoReview(f"only {_KIND} of {VERSION} is understood")
        request = review.request
        if not _asks_for_injection(request):
            return _said(request, Patch(), "")
        pod = msgspec.json.decode(request.object, type=Pod)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NoReview(f"this is no {_KIND} with a pod: {error}") from error
    decision = inject(pod, request.namespace, settings)
    return _said(request, decision, f"{request.namespace}/{pod.title}")


def _asks_for_injection(request: _Request) -> bool:
    kind = (request.resource.group, request.resource.resource, request.sub_resource)
    return kind == ("", "pods", "") and request.operation == "CREATE"


def _said(request: _Request, decision: Patch | Refusal, subject: str) -> Answer:
    response: dict[str, Any] = {"uid": request.uid, "allowed": True}
    verdict, sentence = Verdict.UNCHANGED, ""
    if isinstance(decision, Refusal):
        verdict, sentence = Verdict.REFUSED, decision.sentence
        status = {"code": 422, "reason": "Invalid", "message": sentence}
        response |= {"allowed": False, "status": status}
    elif decision.operations:
        verdict = Verdict.INJECTED
        patch = base64.b64encode(msgspec.json.encode(decision.operations)).decode("ascii")
        response |= {"patchType": "JSONPatch", "patch": patch}
        if decision.warnings:
            response["warnings"] = list(decision.warnings)
    review = {"apiVersion": VERSION, "kind": _KIND, "response": response}
    return Answer(msgspec.json.encode(review), verdict, subject, sentence)
