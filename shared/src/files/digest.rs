//! SHA-256 in hexadecimal, of bytes and of files.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::error::{Kind, ResultExt};

/// SHA-256 in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of every file, read in pieces.
///
/// # Errors
/// A file that cannot be read.
pub fn hash_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<String>> {
    let one = |path: &Path| {
        let place = || format!("{}: cannot be read", path.display());
        let mut file = std::fs::File::open(path).or_fail(Kind::Data, place)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let length = file.read(&mut buffer).or_fail(Kind::Data, place)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
        Ok(hex(&hasher.finalize()))
    };
    paths.into_iter().map(one).collect()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_digest_is_that_of_its_bytes_and_as_published() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
        assert_eq!(hash_files([path.as_path()]).unwrap(), [expected]);
    }
}
