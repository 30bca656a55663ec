//! JSON Web Tokens (RFC 7519) under keys that the operator has given: HS256 and `EdDSA` (Ed25519), nothing else.
//!
//! Which algorithm a token is checked by follows from the key alone; a token whose header names another is refused
//! before anything is computed (RFC 8725, section 3.1). Signatures are ring's; here is the form.

use std::path::{Path, PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{ED25519, UnparsedPublicKey},
};
use serde::{Deserialize, de::IgnoredAny};
use tokio_util::sync::CancellationToken;

use super::{
    Principal,
    pass::{Grant, Role},
    tokens::NAME_BYTES_MAX,
};
use crate::api::watched;

/// How far the clock of who makes tokens may be off, in seconds.
const LEEWAY_S: u64 = 30;
/// Shortest secret for HS256: as long as its hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Whom a token is for, if it says so.
const AUDIENCE: &str = "lamplight";
/// What stands before the 32 bytes of an Ed25519 public key in its file (RFC 8410, section 4).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The keys that tokens may be signed with.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    /// Cancelled when the keys are others.
    replaced: CancellationToken,
}

#[derive(Debug)]
enum Key {
    Hs256(hmac::Key),
    EdDsa(UnparsedPublicKey<Vec<u8>>),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood; none is.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    role: Role,
    collections: Option<Vec<String>>,
    exp: f64,
    nbf: Option<f64>,
    aud: Option<Audience>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Keys {
    /// Reads a file for each key.
    pub fn read(paths: &[PathBuf]) -> Result<Keys, String> {
        let key = |path: &PathBuf| key(path).map_err(|why| format!("{}: {why}", path.display()));
        let keys = paths.iter().map(key).collect::<Result<_, _>>()?;
        Ok(Keys { keys, replaced: CancellationToken::new() })
    }

    /// Others are in force: what was let in under these ends, and who has a token comes again with it.
    pub fn end(&self) {
        self.replaced.cancel();
    }

    /// What a token is good for at a time (in seconds since 1970), or why it is not.
    pub fn verify(&self, token: &str, now: u64) -> Result<Grant, String> {
        let form = "the token is no JWT: three parts in base64url, with dots between";
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form.into());
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let decode = |part| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| form.to_string());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| form.to_string())?;
        if header.crit.is_some() {
            return Err("the token's header has \"crit\", which this node does not know: leave it out".into());
        }
        let signature = decode(signature)?;
        if !self.keys.iter().any(|key| key.has_signed(&header.alg, signed.as_bytes(), &signature)) {
            return Err("the token is signed with none of this node's keys (--jwt-key), or by another algorithm than \
                        theirs, HS256 or EdDSA: get a new one"
                .into());
        }
        let claims: Claims = serde_json::from_slice(&decode(claims)?)
            .map_err(|error| format!("the token's claims are not such as this node takes: {error}"))?;
        let mut grant = claims.grant(now)?;
        grant.revoked = self.replaced.child_token();
        Ok(grant)
    }
}

impl Key {
    fn has_signed(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Key::Hs256(key) => algorithm == "HS256" && hmac::verify(key, signed, signature).is_ok(),
            Key::EdDsa(key) => algorithm == "EdDSA" && key.verify(signed, signature).is_ok(),
        }
    }
}

impl Claims {
    fn grant(self, now: u64) -> Result<Grant, String> {
        let for_us = match &self.aud {
            None => true,
            Some(Audience::One(audience)) => audience == AUDIENCE,
            Some(Audience::Several(audiences)) => audiences.iter().any(|audience| audience == AUDIENCE),
        };
        if !for_us {
            return Err(format!("the token's \"aud\" is not {AUDIENCE:?}: it is for somebody else"));
        }
        // No number at all compares with nothing, and is refused.
        let expires = self.exp.max(0.0) as u64;
        if !self.exp.is_finite() || expires.saturating_add(LEEWAY_S) <= now {
            return Err("the token has expired: get a new one".into());
        }
        if self.nbf.is_some_and(|start| start > now.saturating_add(LEEWAY_S) as f64) {
            return Err("the token is not good yet (\"nbf\"): wait, or see to the clocks".into());
        }
        let principal = Principal::issued(self.iss.as_deref(), self.sub.as_deref());
        let mut name = self.sub.unwrap_or_else(|| "a JWT".into());
        while name.len() > NAME_BYTES_MAX {
            name.pop();
        }
        let grant = Grant::new(name, self.role, self.collections.as_deref());
        let grant = grant.map_err(|why| format!("the token's claims are not such as this node takes: {why}"))?;
        Ok(Grant { principal, expires: Some(expires.saturating_add(LEEWAY_S)), ..grant })
    }
}

/// The key of a file: an Ed25519 public key in PEM, or else the secret for HS256.
fn key(path: &Path) -> Result<Key, String> {
    let bytes = watched::read(path)?;
    let Some(text) = str::from_utf8(&bytes).ok().map(str::trim).filter(|text| text.starts_with("-----BEGIN")) else {
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "a secret for HS256 has at least {SECRET_BYTES_MIN} bytes: openssl rand -base64 48 makes one"
            ));
        }
        return Ok(Key::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)));
    };
    // Never taken as a secret: what is public must not sign.
    let body =
        text.strip_prefix("-----BEGIN PUBLIC KEY-----").and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"));
    let der = body.and_then(|body| BASE64_STANDARD.decode(body.replace(['\n', '\r'], "")).ok());
    let public = der.as_deref().and_then(|der| der.strip_prefix(&ED25519_PREFIX)).filter(|key| key.len() == 32);
    let public = public.ok_or(
        "of keys in PEM it takes Ed25519 public keys only: openssl pkey -in private.pem -pubout gives that of a private one",
    )?;
    Ok(Key::EdDsa(UnparsedPublicKey::new(&ED25519, public.to_vec())))
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        format!("{signed}.{}", encode(sign(signed.as_bytes())))
    }

    fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        move |message| hmac::sign(&key, message).as_ref().to_vec()
    }

    fn keys(keys: Vec<Key>) -> Keys {
        Keys { keys, replaced: CancellationToken::new() }
    }

    fn secret_keys() -> Keys {
        keys(vec![Key::Hs256(hmac::Key::new(hmac::HMAC_SHA256, SECRET))])
    }

    fn check(claims: &str, expected: Result<(), &str>) {
        let verified = secret_keys().verify(&signed(r#"{"alg":"HS256","typ":"JWT"}"#, claims, hs256(SECRET)), NOW);
        match (verified, expected) {
            (Ok(_), Ok(())) => {}
            (Err(why), Err(words)) => assert!(why.contains(words), "{claims}: {why}"),
            (verified, _) => panic!("{claims}: {verified:?}"),
        }
    }

    #[test]
    fn claims_are_checked() {
        let (later, earlier) = (NOW + 60, NOW - 60);
        let with = |more: &str| format!(r#"{{"sub":"ada","role":"read","collections":["notes"]{more}}}"#);
        check(&with(&format!(r#","exp":{later}"#)), Ok(()));
        check(&with(&format!(r#","exp":{later}.5,"nbf":{earlier},"iss":"x""#)), Ok(()));
        check(&with(&format!(r#","exp":{}"#, NOW - LEEWAY_S + 1)), Ok(()));
        check(&with(&format!(r#","exp":{earlier}"#)), Err("expired"));
        check(&with(r#","exp":-1"#), Err("expired"));
        check(&with(r#","exp":1e300"#), Ok(()));
        check(&with(""), Err("missing field `exp`"));
        check(&with(&format!(r#","exp":{later},"nbf":{later}"#)), Err("not good yet"));
        check(&with(&format!(r#","exp":{later},"aud":"lamplight""#)), Ok(()));
        check(&with(&format!(r#","exp":{later},"aud":["other","lamplight"]"#)), Ok(()));
        check(&with(&format!(r#","exp":{later},"aud":"other""#)), Err("aud"));
        check(&format!(r#"{{"role":"read","exp":{later}}}"#), Err("collections"));
        check(&format!(r#"{{"role":"admin","exp":{later}}}"#), Ok(()));
        check(&format!(r#"{{"role":"root","exp":{later}}}"#), Err("unknown variant"));
        check(&format!(r#"{{"role":"read","role":"admin","exp":{later}}}"#), Err("duplicate field"));
    }

    #[test]
    fn the_key_fixes_the_algorithm() {
        let claims = format!(r#"{{"role":"admin","exp":{}}}"#, NOW + 60);
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        let ed25519 = keys(vec![Key::EdDsa(UnparsedPublicKey::new(&ED25519, public.clone()))]);
        let by_pair = |message: &[u8]| pair.sign(message).as_ref().to_vec();
        assert!(ed25519.verify(&signed(r#"{"alg":"EdDSA"}"#, &claims, by_pair), NOW).is_ok());
        let check = |keys: &Keys, token: String| assert!(keys.verify(&token, NOW).is_err(), "{token}");
        check(&ed25519, signed(r#"{"alg":"HS256"}"#, &claims, hs256(&public)));
        check(&ed25519, signed(r#"{"alg":"HS256"}"#, &claims, by_pair));
        check(&ed25519, signed(r#"{"alg":"EdDSA"}"#, &claims, |_| vec![0; 64]));
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None"}"#, "{}"] {
            check(&ed25519, signed(header, &claims, |_| Vec::new()));
            check(&secret_keys(), signed(header, &claims, |_| Vec::new()));
            check(&secret_keys(), signed(header, &claims, hs256(SECRET)));
        }
        check(&secret_keys(), signed(r#"{"alg":"EdDSA"}"#, &claims, by_pair));
        check(&secret_keys(), signed(r#"{"alg":"HS512"}"#, &claims, hs256(SECRET)));
        check(&secret_keys(), signed(r#"{"alg":"HS256"}"#, &claims, hs256(b"another")));
        check(&secret_keys(), signed(r#"{"alg":"HS256","crit":["exp"]}"#, &claims, hs256(SECRET)));
        let good = signed(r#"{"alg":"HS256"}"#, &claims, hs256(SECRET));
        assert!(secret_keys().verify(&good, NOW).is_ok());
        for bad in [
            format!("{good}."),
            format!("{good}="),
            good.replacen('.', "..", 1),
            ".".into(),
            "..".into(),
            String::new(),
        ] {
            check(&secret_keys(), bad);
        }
    }

    #[test]
    fn a_key_file_holds_a_secret_or_an_ed25519_public_key() {
        let dir = std::env::temp_dir().join(format!("lamplight-jwt-{}", uuid::Uuid::new_v4()));
        let read = |content: &[u8]| {
            std::fs::write(&dir, content).unwrap();
            key(&dir)
        };
        assert!(matches!(read(SECRET), Ok(Key::Hs256(_))));
        let mut der = ED25519_PREFIX.to_vec();
        der.extend([7; 32]);
        let pem = |kind: &str, der: &[u8]| {
            format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", BASE64_STANDARD.encode(der)).into_bytes()
        };
        assert!(matches!(read(&pem("PUBLIC KEY", &der)), Ok(Key::EdDsa(_))));
        for bad in [pem("PRIVATE KEY", &der), pem("PUBLIC KEY", &der[1..]), b"-----BEGIN".to_vec(), b"short\n".to_vec()]
        {
            assert!(read(&bad).is_err());
        }
        std::fs::remove_file(&dir).unwrap();
    }
}
