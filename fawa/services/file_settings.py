"""What can be set about the file service, and what of that each of its parts is told."""

from __future__ import annotations

import attrs

from fawa.services.intake import IntakeSettings
from fawa.services.quotas import QuotaSettings
from fawa.services.sharing import SharingSettings
from fawa.services.uploads import UploadLimits


@attrs.frozen(kw_only=True)
class FileSettings:
    """What can be set about the file service."""

    #: Seconds a file is kept after its upload is complete.
    ttl: float = 1500.0
    #: Seconds an upload that may be interrupted is kept after it last made progress.
    upload_ttl: float = 86_400.0
    #: Seconds a download link is valid, unless the file expires before.
    link_ttl: float = 300.0
    #: Seconds between two looks for expired files.
    sweep_interval: float = 30.0
    #: Seconds an upload may stand still before it is given up.
    progress_timeout: float = 60.0
    #: Bytes of the largest file that is taken; 0 is no limit.
    max_file_size: int = 0
    #: What links begin with: scheme, authority and perhaps a path. "" takes what the client used.
    public_url: str = ""
    #: On what terms files may be shared; `ttl` there is that above.
    sharing: SharingSettings = attrs.field(factory=SharingSettings)
    quotas: QuotaSettings = attrs.field(factory=QuotaSettings)

    @property
    def uploads(self) -> UploadLimits:
        """What of it holds for uploads that may be interrupted."""
        return UploadLimits(upload_ttl=self.upload_ttl, ttl=self.ttl, max_file_size=self.max_file_size)

    @property
    def intake(self) -> IntakeSettings:
        """What of it holds for uploads over plain HTTP."""
        return IntakeSettings(
            limits=self.uploads,
            progress_timeout=self.progress_timeout,
            link_ttl=self.link_ttl,
            public_url=self.public_url,
        )
