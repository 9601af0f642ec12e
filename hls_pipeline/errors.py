"""The error tree, and for each error whether trying again could help.

    PipelineError
    ├── UserError                     the caller or the package is at fault: exit code 1
    │   ├── PackageRefused            the package breaks rules; carries the report
    │   ├── NotFound                  no such video, upload or version
    │   └── Conflict                  the request contradicts what is already so
    ├── UsageError                    wrong arguments or settings: exit code 2
    ├── ServiceError                  a service did not do its part: exit code 3, worth trying again
    │   ├── Outage                    it cannot be reached or says "later": uses up no attempt
    │   ├── ServiceRefused            it answered, and the answer will stay no: not worth trying again
    │   └── ProofMissing              IPFS does not (yet) provably hold the content
    ├── ObjectMissing                 an S3 object that should be there is not
    ├── ObjectChanged                 an S3 object is not the one we saw
    ├── DropChanged                   the creator wrote to the inbox after the drop was frozen
    ├── LeaseLost                     another run holds the video now; this one must stop, quietly
    └── Corruption                    two things that must be equal are not: nothing goes on, a person looks

Foreign exceptions become one of these where the foreign library is called, with `raise … from`. A message says
what we were doing, to which thing, and what the reader can do. Add a class only when a caller treats it differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hls_pipeline.hls.findings import Report


class PipelineError(Exception):
    """Base of all errors we raise on purpose."""

    retryable = False
    uses_attempt = True
    """Whether a failed try counts against the upload's attempts (an outage of a service does not)."""
    exit_code = 1
    code = "error"
    """Stable machine name, shown in JSON and in HTTP problem documents."""


class UserError(PipelineError):
    code = "bad_request"


class PackageRefused(UserError):
    """The package breaks rules that publishing it cannot mend. `report` names file, line and code of each."""

    code = "package_refused"

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class NotFound(UserError):
    code = "not_found"


class Conflict(UserError):
    code = "conflict"


class UsageError(PipelineError):
    exit_code = 2
    code = "usage"


class ServiceError(PipelineError):
    retryable = True
    exit_code = 3
    code = "service_error"


class Outage(ServiceError):
    uses_attempt = False
    code = "service_unavailable"


class ServiceRefused(ServiceError):
    retryable = False
    code = "service_refused"


class ProofMissing(ServiceError):
    code = "proof_missing"


class ObjectMissing(PipelineError):
    retryable = True
    exit_code = 3
    code = "object_missing"


class ObjectChanged(PipelineError):
    retryable = True
    exit_code = 3
    code = "object_changed"


class DropChanged(PipelineError):
    """Not a failure: the upload gives way and the folder is frozen again once it is still."""

    uses_attempt = False
    code = "drop_changed"


class LeaseLost(PipelineError):
    uses_attempt = False
    exit_code = 3
    code = "lease_lost"


class Corruption(PipelineError):
    exit_code = 3
    code = "corruption"
