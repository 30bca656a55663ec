//! Addresses, as shares tell clients and peers apart by them.

use std::net::{IpAddr, Ipv6Addr};

/// Where a connection comes from: an IPv4 address, or the 64 bits of an IPv6 address that name a network, for whoever has one
/// of its addresses has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Whence(IpAddr);

impl Whence {
    /// Of an address.
    pub fn of(address: IpAddr) -> Whence {
        Whence(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}
