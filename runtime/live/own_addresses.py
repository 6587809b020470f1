"""Tells the addresses of this machine and of its cloud from those of others."""

from __future__ import annotations

import ipaddress
import socket

# Most clouds' and AWS's for containers, which are link-local; Alibaba's, Azure's, Oracle's, AWS's.
METADATA = frozenset(
    {
        *("169.254.169.254", "169.254.170.2", "169.254.170.23"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23"),
    }
)


def plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Returns an IP address without a zone; one of IPv4 that is written as IPv6 as what it is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def leads_here(host: str) -> bool:
    """Returns whether a name or address stands for this machine, its link or its cloud.

    A name that stands for nothing now does not; an address without a host does.
    """
    if not host:
        return True
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    addresses = [plain(text) for text in found]
    return any(
        str(one) in METADATA
        or one.is_loopback
        or one.is_link_local
        or one.is_unspecified
        or one.is_multicast
        or _is_own(one)
        for one in addresses
    )


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Returns whether this machine has the address, which only then can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
