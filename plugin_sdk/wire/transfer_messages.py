"""The ends of a transfer, and its steps, as messages and back. What goes through a stream is named by its id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from plugin_sdk import transfer
from plugin_sdk.api.types import platform_pb2
from plugin_sdk.api.types.transfer import imagestore_pb2, importexport_pb2, progress_pb2, registry_pb2
from plugin_sdk.platforms import Platform
from plugin_sdk.wire import messages


def platform_message(platform: Platform) -> platform_pb2.Platform:
    return platform_pb2.Platform(
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def platform(message: platform_pb2.Platform) -> Platform:
    features = tuple(message.os_features)
    return Platform(message.os, message.architecture, message.variant, message.os_version, features)


def _platforms(found: Iterable[platform_pb2.Platform]) -> tuple[Platform, ...]:
    return tuple(platform(each) for each in found)


# --- registries


def registry_message(registry: transfer.Registry, auth_stream: str) -> registry_pb2.OCIRegistry:
    resolver = registry_pb2.RegistryResolver(
        auth_stream=auth_stream,
        headers=registry.headers,
        host_dir=registry.host_dir,
        default_scheme=registry.scheme,
    )
    return registry_pb2.OCIRegistry(reference=registry.reference, resolver=resolver)


def registry(message: registry_pb2.OCIRegistry, ask: transfer.Ask | None) -> transfer.Registry:
    resolver = message.resolver
    headers = dict(resolver.headers)
    return transfer.Registry(message.reference, headers, resolver.host_dir, resolver.default_scheme, ask)


def challenge_message(challenge: transfer.Challenge) -> registry_pb2.AuthRequest:
    return registry_pb2.AuthRequest(
        host=challenge.host, reference=challenge.reference, wwwauthenticate=challenge.headers
    )


def challenge(message: registry_pb2.AuthRequest) -> transfer.Challenge:
    return transfer.Challenge(message.host, message.reference, tuple(message.wwwauthenticate))


def credentials_message(found: transfer.Credentials | None) -> registry_pb2.AuthResponse:
    if found is None:
        return registry_pb2.AuthResponse()
    if found.header:
        return registry_pb2.AuthResponse(authType=registry_pb2.HEADER, secret=found.header)
    if found.refresh:
        return registry_pb2.AuthResponse(authType=registry_pb2.REFRESH, secret=found.refresh)
    return registry_pb2.AuthResponse(authType=registry_pb2.CREDENTIALS, username=found.username, secret=found.secret)


def credentials(message: registry_pb2.AuthResponse) -> transfer.Credentials | None:
    """ctr answers an empty identity token when it has nothing."""
    if message.authType == registry_pb2.HEADER:
        return transfer.Credentials(header=message.secret) if message.secret else None
    if message.authType == registry_pb2.REFRESH:
        return transfer.Credentials(refresh=message.secret) if message.secret else None
    if message.authType == registry_pb2.CREDENTIALS:
        return transfer.Credentials(message.username, message.secret)
    return None


# --- image stores


def store_message(store: transfer.ImageStore) -> imagestore_pb2.ImageStore:
    return imagestore_pb2.ImageStore(
        name=store.name,
        labels=store.labels,
        platforms=map(platform_message, store.platforms),
        all_metadata=store.all_metadata,
        manifest_limit=store.manifest_limit,
        extra_references=map(_name_message, store.extra),
        unpacks=map(_unpack_message, store.unpacks),
    )


def store(message: imagestore_pb2.ImageStore) -> transfer.ImageStore:
    return transfer.ImageStore(
        message.name,
        dict(message.labels),
        _platforms(message.platforms),
        message.all_metadata,
        message.manifest_limit,
        tuple(map(_name, message.extra_references)),
        tuple(map(_unpack, message.unpacks)),
    )


def _name_message(name: transfer.Name) -> imagestore_pb2.ImageReference:
    return imagestore_pb2.ImageReference(
        name=name.name,
        is_prefix=name.is_prefix,
        allow_overwrite=name.allow_overwrite,
        add_digest=name.add_digest,
        skip_named_digest=name.skip_named_digest,
    )


def _name(message: imagestore_pb2.ImageReference) -> transfer.Name:
    return transfer.Name(
        message.name, message.is_prefix, message.allow_overwrite, message.add_digest, message.skip_named_digest
    )


def _unpack_message(unpack: transfer.Unpack) -> imagestore_pb2.UnpackConfiguration:
    wanted = None if unpack.platform is None else platform_message(unpack.platform)
    return imagestore_pb2.UnpackConfiguration(platform=wanted, snapshotter=unpack.snapshotter)


def _unpack(message: imagestore_pb2.UnpackConfiguration) -> transfer.Unpack:
    given = message.platform.os or message.platform.architecture
    return transfer.Unpack(platform(message.platform) if given else None, message.snapshotter)


# --- archives


def import_message(archive: transfer.ImportStream, stream: str) -> importexport_pb2.ImageImportStream:
    return importexport_pb2.ImageImportStream(
        stream=stream, media_type=archive.media_type, force_compress=archive.force_compress
    )


def import_stream(message: importexport_pb2.ImageImportStream, file: BinaryIO) -> transfer.ImportStream:
    return transfer.ImportStream(file, message.media_type, message.force_compress)


def export_message(archive: transfer.ExportStream, stream: str) -> importexport_pb2.ImageExportStream:
    return importexport_pb2.ImageExportStream(
        stream=stream,
        media_type=archive.media_type,
        platforms=map(platform_message, archive.platforms),
        all_platforms=archive.all_platforms,
        skip_compatibility_manifest=archive.skip_compatibility_manifest,
        skip_non_distributable=archive.skip_non_distributable,
    )


def export_stream(message: importexport_pb2.ImageExportStream, file: BinaryIO) -> transfer.ExportStream:
    return transfer.ExportStream(
        file,
        message.media_type,
        _platforms(message.platforms),
        message.all_platforms,
        message.skip_compatibility_manifest,
        message.skip_non_distributable,
    )


# --- steps


def progress_message(step: transfer.Progress) -> progress_pb2.Progress:
    return progress_pb2.Progress(
        event=step.event,
        name=step.name,
        parents=step.parents,
        progress=step.progress,
        total=step.total,
        desc=None if step.descriptor is None else messages.descriptor_message(step.descriptor),
    )


def progress(message: progress_pb2.Progress) -> transfer.Progress:
    parents: Sequence[str] = tuple(message.parents)
    descriptor = messages.descriptor(message.desc) if message.HasField("desc") else None
    return transfer.Progress(message.event, message.name, parents, message.progress, message.total, descriptor)
