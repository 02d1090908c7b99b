"""OpenLineage events as we read them: which run of which job read and wrote which dataset version, and who started it.

Models of the OpenLineage specification 2-0-2 (RunEvent, DatasetEvent, JobEvent). Facets are open-ended by design: the two that
say something about lineage are read, all others are passed over unread, since they may hold queries and error texts.
Not for receiving (the intake stage) nor keeping (an adapter).
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from bridge.contracts.errors import BadInput
from bridge.contracts.scope import Instant

MAX_DATASETS = 10_000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


_Name = Annotated[str, Field(min_length=1, max_length=2000)]
RunId = Annotated[str, AfterValidator(lambda text: str(uuid.UUID(text)))]
"""A UUID, in lower case with hyphens."""


def _tolerant(value: Any) -> Any:
    """Facets of another version, or of no version at all, say nothing; they never make an event unreadable."""
    return value if isinstance(value, dict) else {}


class _ParentRun(_Model):
    run_id: RunId = Field(alias="runId")


class _ParentFacet(_Model):
    run: _ParentRun


class _VersionFacet(_Model):
    dataset_version: str = Field(alias="datasetVersion", min_length=1, max_length=500)


class Dataset(_Model):
    """A dataset that an event names."""

    namespace: _Name
    name: _Name
    facets: Annotated[dict[str, Any], BeforeValidator(_tolerant)] = Field(default_factory=dict, repr=False)

    @property
    def version(self) -> str | None:
        """Return what the facet `version` says, if it can be read."""
        return _read(_VersionFacet, self.facets.get("version"), lambda facet: facet.dataset_version)


class _Job(_Model):
    namespace: _Name
    name: _Name


class _Run(_Model):
    run_id: RunId = Field(alias="runId")
    facets: Annotated[dict[str, Any], BeforeValidator(_tolerant)] = Field(default_factory=dict, repr=False)


class _Event(_Model):
    event_time: Instant = Field(alias="eventTime")
    producer: str = Field(max_length=2000)
    schema_url: str = Field(alias="schemaURL", max_length=2000)


_Datasets = Annotated[tuple[Dataset, ...], BeforeValidator(lambda value: () if value is None else value)]


class RunEvent(_Event):
    """A run of a job changed its state."""

    event_type: Literal["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"] = Field(
        default="OTHER", alias="eventType"
    )
    run: _Run
    job: _Job
    inputs: _Datasets = Field(default=(), max_length=MAX_DATASETS)
    outputs: _Datasets = Field(default=(), max_length=MAX_DATASETS)


class DatasetEvent(_Event):
    """Facts of a dataset, without a run."""

    dataset: Dataset


class JobEvent(_Event):
    """Facts of a job as designed, without a run."""

    job: _Job


class Role(StrEnum):
    """What a run did with a dataset."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class DatasetFact:
    """One dataset version that a run read or wrote."""

    role: Role
    namespace: str
    name: str
    version: str | None

    @property
    def full(self) -> str:
        """Return `namespace/name@version`, or without a version `namespace/name`."""
        return f"{self.namespace}/{self.short}"

    @property
    def short(self) -> str:
        """Return `name@version`, or the name alone."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class RunFact:
    """What one event says of a run."""

    run_id: str
    job_namespace: str
    job_name: str
    parent_run_id: str | None
    state: str
    at: datetime
    datasets: tuple[DatasetFact, ...]


def read_event(payload: Any) -> RunFact | None:
    """Return what an event says of a run; None for events about a dataset or a job alone, which no record can refer to.

    Raises BadInput that names the field and shows no value.
    """
    if not isinstance(payload, dict):
        raise BadInput("the body is no OpenLineage event: not a JSON object")
    kind: type[_Event] = RunEvent if "run" in payload else DatasetEvent if "dataset" in payload else JobEvent
    try:
        event = TypeAdapter(kind).validate_python(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the event"
        raise BadInput(f"the body is no OpenLineage {kind.__name__}: {place}: {first['type']}") from None
    if not isinstance(event, RunEvent):
        return None
    facts = [
        DatasetFact(role, each.namespace, each.name, each.version)
        for role, datasets in ((Role.INPUT, event.inputs), (Role.OUTPUT, event.outputs))
        for each in datasets
    ]
    parent = _read(_ParentFacet, event.run.facets.get("parent"), lambda facet: facet.run.run_id)
    return RunFact(
        event.run.run_id, event.job.namespace, event.job.name, None if parent == event.run.run_id else parent,
        event.event_type, event.event_time, tuple(dict.fromkeys(facts)),
    )  # fmt: skip


def _read(model: Any, facet: Any, wanted: Any) -> str | None:
    try:
        found: str = wanted(model.model_validate(facet))
    except ValidationError:
        return None
    return found
