//! Certificates: their verification, and the hash to which a login is bound.

use std::sync::Arc;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::storage::net::tls;

/// Accepts certificates that an authority has signed, and those that are in the list themselves: PostgreSQL's
/// documentation shows how to make such a self-signed one.
#[derive(Debug)]
pub(super) struct CertificateVerifier {
    roots: RootCertStore,
    pinned: Vec<CertificateDer<'static>>,
    /// Whether the certificate must be for the name that was connected to.
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl CertificateVerifier {
    pub(super) fn new(roots: RootCertStore, pinned: Vec<CertificateDer<'static>>, checks_name: bool) -> Self {
        Self { roots, pinned, checks_name, provider: tls::provider() }
    }
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(cert)?;
        if self.pinned.contains(cert) {
            let (from, until) = validity(cert).ok_or(CertificateError::BadEncoding)?;
            if now.as_secs() < from {
                return Err(CertificateError::NotValidYet.into());
            }
            if now.as_secs() > until {
                return Err(CertificateError::Expired.into());
            }
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        }
        if self.checks_name {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns `tls-server-end-point` of RFC 5929 for this certificate, if it is defined: its hash, by the function with which
/// it is signed, or SHA-256 where that one is broken.
pub(super) fn end_point(cert: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let (_, signature) = parts(cert)?;
    let (OID, oid, _) = element(signature)? else { return None };
    let algorithm = match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => &digest::SHA256,
        (Some([12]), _) | (_, Some([3, 3])) => &digest::SHA384,
        (Some([13]), _) | (_, Some([3, 4])) => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, cert).as_ref().to_vec())
}

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// Returns the beginning and the end of its validity, in seconds since 1970.
fn validity(cert: &[u8]) -> Option<(u64, u64)> {
    let (mut rest, _) = parts(cert)?;
    if let (VERSION, _, after) = element(rest)? {
        rest = after;
    }
    // The serial number, the signature's algorithm, the issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (SEQUENCE, times, _) = element(rest)? else { return None };
    let (tag, from, rest) = element(times)?;
    let (until_tag, until, _) = element(rest)?;
    Some((seconds(tag, from)?, seconds(until_tag, until)?))
}

/// Returns the part that is signed, and the algorithm.
fn parts(cert: &[u8]) -> Option<(&[u8], &[u8])> {
    let (SEQUENCE, cert, _) = element(cert)? else { return None };
    let (SEQUENCE, signed, rest) = element(cert)? else { return None };
    let (SEQUENCE, algorithm, _) = element(rest)? else { return None };
    Some((signed, algorithm))
}

/// Reads one element of DER. Returns its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, first, rest @ ..] = der else { return None };
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        // 0x80 is an indefinite length, which DER does not allow.
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Reads `YYMMDDhhmmssZ`, from 1950 on, or `YYYYMMDDhhmmssZ`.
fn seconds(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (century, text) = match tag {
        UTC_TIME if text.len() == 12 => (if text < "5" { 20 } else { 19 }, text),
        GENERALIZED_TIME if text.len() == 14 => (text.get(..2)?.parse().ok()?, text.get(2..)?),
        _ => return None,
    };
    let field = |i: usize| text.get(2 * i..2 * i + 2)?.parse::<i64>().ok();
    let (year, month, day) = (century * 100 + field(0)?, field(1)?, field(2)?);
    // Days since 1970 of a date (Hinnant): years begin in March, so that the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(((days * 24 + field(3)?) * 60 + field(4)?) * 60 + field(5)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(seconds(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, b"000229235959Z"), Some(951_868_799));
        assert_eq!(seconds(GENERALIZED_TIME, b"20500101000000Z"), Some(2_524_608_000));
        assert_eq!(seconds(UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(UTC_TIME, b"691231235959Z"), None);
        for wrong in [&b"20500101000000Z"[..], b"7001010000Z", b"700101000000+0100", b"", b"\xff"] {
            assert_eq!(seconds(UTC_TIME, wrong), None);
        }
    }

    #[test]
    fn malformed_certificates_give_none() {
        for der in
            [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 2, 0x30, 9]]
        {
            assert_eq!((end_point(der), validity(der)), (None, None));
        }
    }
}
