"""The plain directives of a Corefile: each takes its words, and returns the settings with what they say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from podwire.dns.plugins import acl, autopath, dns64, hosts, rewrite, template
from podwire.dns.settings import Caching, Forwarding, Kubernetes, Settings
from podwire.dns.words import Directive, Word, argument, integer, refuse_block, refuse_words, seconds, wrong
from podwire.model import selectors

Parse = Callable[[Settings, Directive, str], Settings]


def _address(directive: Directive, default_port: int, source: str) -> tuple[str, int]:
    if len(directive.words) == 1:
        return "", default_port
    word = argument(directive.words, source)
    host, colon, port = word.text.rpartition(":")
    if not colon or not port.isdigit():
        raise wrong(source, word, f"{word.text!r}: [ADDRESS]:PORT is expected")
    return host.strip("[]"), int(port)


def _errors(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_words(d, source)
    return replace(settings, errors=True)


def _log(settings: Settings, d: Directive, source: str) -> Settings:
    for word in d.words[1:]:
        if "{" in word.text:
            raise wrong(source, word, "log formats are not supported; zones are expected")
    classes: list[str] = []
    for line in d.block:
        if line[0].text != "class" or len(line) < 2:
            raise wrong(source, line[0], "expected class success|denial|error|all")
        for word in line[1:]:
            if word.text not in ("success", "denial", "error", "all"):
                raise wrong(source, word, "expected success, denial, error or all")
            classes.append(word.text)
    return replace(settings, log=tuple(classes) or ("all",), log_zones=d.arguments)


def _loop(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_words(d, source)
    return replace(settings, loop=True)


def _any(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_words(d, source)  # every query for ANY gets RFC 8482's answer, with or without it
    return settings


def _health(settings: Settings, d: Directive, source: str) -> Settings:
    lameduck_s = 0.0
    for line in d.block:
        if line[0].text != "lameduck":
            raise wrong(source, line[0], "expected lameduck DURATION")
        lameduck_s = seconds(argument(line, source), source)
    return replace(settings, health=_address(d, 8080, source), lameduck_s=lameduck_s)


def _ready(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    return replace(settings, ready=_address(d, 8181, source))


def _prometheus(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    return replace(settings, prometheus=_address(d, 9153, source))


def _reload(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    if len(d.words) > 3:
        raise wrong(source, d.words[3], "reload takes an interval and a jitter")
    return replace(settings, reload_s=seconds(d.words[1], source) if len(d.words) > 1 else 30.0)


def _loadbalance(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    if d.arguments not in ((), ("round_robin",)):
        raise wrong(source, d.words[1], "only round_robin is supported")
    return replace(settings, loadbalance=True)


def _bufsize(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    return replace(settings, bufsize=integer(argument(d.words, source), source, 512, 4096) if d.arguments else 1232)


def _multisocket(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    if len(d.words) == 1:
        return replace(settings, workers=-1)  # as many as there are processors
    return replace(settings, workers=integer(argument(d.words, source), source, 1, 64))


def _cache(settings: Settings, d: Directive, source: str) -> Settings:
    if len(d.words) > 2:
        raise wrong(source, d.words[2], "cache for chosen zones is not supported")
    made = Caching()
    if len(d.words) == 2:
        most_s = integer(d.words[1], source, 0, 86400)
        made = replace(made, success_s=most_s, denial_s=min(most_s, made.denial_s))
    for line in d.block:
        made = _cache_line(made, line, source)
    return replace(settings, caching=made)


def _cache_line(made: Caching, line: Sequence[Word], source: str) -> Caching:
    word, values = line[0].text, line[1:]
    if word in ("success", "denial") and 1 <= len(values) <= 3:
        numbers = [integer(v, source, 0, 10_000_000) for v in values]
        names = [f"{word}_entries", f"{word}_s", f"{word}_min_s"]
        return replace(made, **dict(zip(names, numbers, strict=False)))  # type: ignore[arg-type]
    if word == "prefetch" and 1 <= len(values) <= 3:
        made = replace(made, prefetch=integer(values[0], source, 0, 1_000_000))
        if len(values) > 1:
            made = replace(made, prefetch_within_s=seconds(values[1], source))
        if len(values) > 2:
            percent = Word(values[2].text.removesuffix("%"), values[2].line, values[2].column)
            made = replace(made, prefetch_percent=integer(percent, source, 10, 90))
        return made
    if word == "serve_stale" and len(values) <= 2:
        if len(values) > 1 and values[1].text not in ("immediate", "verify"):
            raise wrong(source, values[1], "expected immediate or verify")
        verify = len(values) > 1 and values[1].text == "verify"
        return replace(made, stale_s=seconds(values[0], source) if values else 3600.0, stale_verify=verify)
    if word == "servfail":
        return replace(made, servfail_s=seconds(argument(line, source), source))
    expected = "success, denial, prefetch, serve_stale or servfail"
    raise wrong(source, line[0], f"{word!r} is not supported here; expected {expected}")


def _kubernetes(settings: Settings, d: Directive, source: str) -> Settings:
    k = Kubernetes(zones=tuple(z.rstrip(".") for z in d.arguments) or ("cluster.local",))
    for line in d.block:
        k = _kubernetes_line(k, line, source)
    return replace(settings, kubernetes=k)


def _kubernetes_line(k: Kubernetes, line: Sequence[Word], source: str) -> Kubernetes:
    name, values = line[0].text, tuple(w.text for w in line[1:])
    if name == "pods":
        mode = argument(line, source)
        if mode.text not in ("disabled", "insecure", "verified"):
            raise wrong(source, mode, "expected disabled, insecure or verified")
        return replace(k, pods=mode.text)  # type: ignore[arg-type]
    if name == "ttl":
        return replace(k, ttl_s=integer(argument(line, source), source, 0, 3600))
    if name == "fallthrough":
        return replace(k, fallthrough=values or (".",))
    if name == "namespaces" and values:
        return replace(k, namespaces=values)
    if name == "labels" and values:
        try:
            selectors.parse(" ".join(values))
        except ValueError as error:
            raise wrong(source, line[1], f"not a label selector: {error}") from None
        return replace(k, labels=" ".join(values))
    if name == "endpoint_pod_names" and not values:
        return replace(k, endpoint_pod_names=True)
    if name == "ignore" and values == ("empty_service",):
        return replace(k, ignore_empty=True)
    if name == "noendpoints" and not values:
        raise wrong(source, line[0], "'noendpoints' is not supported: headless Services live from their endpoints")
    expected = "pods, ttl, fallthrough, namespaces, labels, endpoint_pod_names or ignore empty_service"
    raise wrong(source, line[0], f"{name!r} is not supported here; expected {expected}")


def _forward(settings: Settings, d: Directive, source: str) -> Settings:
    if len(d.words) < 3:
        raise wrong(source, d.words[0], "expected forward ZONE UPSTREAM...")
    for word in d.words[2:]:
        if not word.text.startswith("/") and not _is_upstream(word.text):
            raise wrong(source, word, f"{word.text!r} is neither an address nor a file (TLS is not supported)")
    f = Forwarding(d.words[1].text, d.arguments[1:])
    if any(other.zone == f.zone for other in settings.forwards):
        raise wrong(source, d.words[1], f"{f.zone!r} is forwarded twice")
    for line in d.block:
        f = _forward_line(f, line, source)
    return replace(settings, forwards=(*settings.forwards, f))


def _forward_line(f: Forwarding, line: Sequence[Word], source: str) -> Forwarding:
    word = line[0].text
    if word == "except" and len(line) > 1:
        return replace(f, excepted=tuple(w.text for w in line[1:]))
    if word in ("force_tcp", "prefer_udp") and len(line) == 1:
        return replace(f, **{word: True})  # type: ignore[arg-type]
    if word == "max_concurrent":
        return replace(f, max_concurrent=integer(argument(line, source), source, 0, 1_000_000))
    if word == "max_fails":
        return replace(f, max_fails=integer(argument(line, source), source, 0, 1000))
    if word == "policy":
        value = argument(line, source)
        if value.text not in ("random", "round_robin", "sequential"):
            raise wrong(source, value, "expected random, round_robin or sequential")
        return replace(f, policy=value.text)
    if word == "health_check" and len(line) > 1:
        f = replace(f, health_check_s=seconds(line[1], source))
        if len(line) == 4 and line[2].text == "domain":
            return replace(f, health_domain=line[3].text)
        if len(line) == 2 or [w.text for w in line[2:]] == ["no_rec"]:
            return f
        raise wrong(source, line[2], "expected no_rec or domain FQDN")
    expected = "except, force_tcp, prefer_udp, max_concurrent, max_fails, policy or health_check"
    raise wrong(source, line[0], f"{word!r} is not supported here; expected {expected}")


def split_upstream(text: str) -> tuple[str, int]:
    """Return address and port of "10.0.0.1", "10.0.0.1:53" or "[fd00::1]:53". Raises ValueError."""
    text = text.removeprefix("dns://")
    try:
        return str(ip_address(text)), 53
    except ValueError:
        host, _, port = text.rpartition(":")
        return str(ip_address(host.strip("[]"))), int(port)


def _is_upstream(text: str) -> bool:
    try:
        split_upstream(text)
    except ValueError:
        return False
    return True


def _file(settings: Settings, d: Directive, source: str) -> Settings:
    refuse_block(d, source)
    if len(d.words) != 3 or not d.words[1].text.startswith("/"):
        raise wrong(source, d.words[0], "expected file PATH ZONE, the path from /")
    return replace(settings, zone_files=(*settings.zone_files, (d.words[2].text, d.words[1].text)))


DIRECTIVES: dict[str, Parse] = {
    "acl": lambda s, d, f: replace(s, acl=s.acl + acl.parse(d, f)),
    "any": _any,
    "autopath": lambda s, d, f: replace(s, autopath=autopath.parse(d, f)),
    "bufsize": _bufsize,
    "cache": _cache,
    "dns64": lambda s, d, f: replace(s, dns64=dns64.parse(d, f)),
    "errors": _errors,
    "file": _file,
    "forward": _forward,
    "health": _health,
    "hosts": lambda s, d, f: replace(s, hosts=hosts.parse(d, f)),
    "kubernetes": _kubernetes,
    "loadbalance": _loadbalance,
    "log": _log,
    "loop": _loop,
    "multisocket": _multisocket,
    "prometheus": _prometheus,
    "ready": _ready,
    "reload": _reload,
    "rewrite": lambda s, d, f: replace(s, rewrite=(*s.rewrite, rewrite.parse(d, f))),
    "template": lambda s, d, f: replace(s, templates=(*s.templates, template.parse(d, f))),
}
REPEATABLE = frozenset({"acl", "file", "forward", "rewrite", "template"})
UNSUPPORTED = frozenset({
    "auto", "azure", "bind", "cancel", "chaos", "clouddns", "debug", "dnssec", "dnstap", "erratic", "etcd", "geoip",
    "grpc", "grpc_server", "header", "https", "https3", "import", "k8s_external", "local", "metadata", "minimal",
    "nomad", "nsid", "on", "pprof", "quic", "root", "route53", "secondary", "sign", "timeouts", "tls", "trace",
    "transfer", "tsig", "view", "whoami",
})  # fmt: skip
"""Directives that CoreDNS has and this server has not: refused by name."""
EVERYWHERE = frozenset({
    "acl", "any", "bufsize", "cache", "dns64", "errors", "file", "forward", "hosts", "loadbalance", "log", "loop",
    "prometheus", "reload", "rewrite", "template", "health", "ready",
})  # fmt: skip
"""What a further server block may hold: all but what exists once in a process."""
