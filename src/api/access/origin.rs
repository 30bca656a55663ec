//! The origin of a page, compared as the URL and Fetch standards do: scheme, host and port, of which the port that a scheme
//! has by itself is left out.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// Schemes whose hosts are names, without regard to case, and their ports. The hosts of other schemes (`app://`,
/// `chrome-extension://`) are compared as they stand.
const SPECIAL: [(&str, u16); 5] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443), ("ftp", 21)];

/// An origin that is not opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// The text is no origin, or the opaque one (`null`), which is the same as no other, not even as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoOrigin;

impl FromStr for Origin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Origin, NoOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(NoOrigin)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_authority =
            authority.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*,;\\\"'<>^`{|}%".contains(&byte));
        if !is_scheme || !is_authority {
            return Err(NoOrigin);
        }
        let scheme = scheme.to_ascii_lowercase();
        let own_port = SPECIAL.iter().find(|(name, _)| *name == scheme).map(|(_, port)| *port);
        let (host, port) = split(authority)?;
        let host = if own_port.is_some() { host.to_ascii_lowercase() } else { host };
        Ok(Origin { scheme, host, port: port.filter(|port| Some(*port) != own_port) })
    }
}

/// The host and the port of `host`, `host:port`, `[address]` or `[address]:port`.
fn split(authority: &str) -> Result<(String, Option<u16>), NoOrigin> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']').ok_or(NoOrigin)?;
            let address: Ipv6Addr = address.parse().map_err(|_| NoOrigin)?;
            let port = if behind.is_empty() { "" } else { behind.strip_prefix(':').ok_or(NoOrigin)? };
            (format!("[{address}]"), port)
        }
        None => authority.split_once(':').map_or((authority.to_string(), ""), |(host, port)| (host.to_string(), port)),
    };
    if host.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoOrigin);
    }
    let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| NoOrigin)?) };
    Ok((host, port))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_form() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Origin>().map(|origin| origin.to_string()).as_deref(), Ok(expected), "{text}");
        };
        check("https://App.Example.com", "https://app.example.com");
        check("HTTPS://app.example.com:443", "https://app.example.com");
        check("http://localhost:80", "http://localhost");
        check("http://localhost:", "http://localhost");
        check("https://app.example.com:80", "https://app.example.com:80");
        check("http://localhost:07171", "http://localhost:7171");
        check("http://[0:0::1]:80", "http://[::1]");
        check("capacitor://localhost", "capacitor://localhost");
        check("Tauri://localhost", "tauri://localhost");
        check("app://.", "app://.");
        check("app://Obsidian.md", "app://Obsidian.md");
        check(
            "chrome-extension://kbmfpngjjgdllneeigpgjifpgocmfgmb",
            "chrome-extension://kbmfpngjjgdllneeigpgjifpgocmfgmb",
        );
        check(
            "moz-extension://5bd4a1f0-0000-4000-8000-000000000000",
            "moz-extension://5bd4a1f0-0000-4000-8000-000000000000",
        );
        for bad in [
            "",
            "null",
            "://a",
            "https://",
            "https://:80",
            "https://a/b",
            "https://a:b",
            "https://a:65536",
            "https://a:1:2",
            "https://[::1",
            "https://[::1]x",
            "https://[a]",
            "https://*.a",
            "https://u@a",
            "https://a\n",
            "1a://b",
            "a b://c",
            "https://é.example",
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(NoOrigin), "{bad}");
        }
    }
}
