//! Files and folders that appear whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::digest::sha256_hex;
use super::error::{Kind, failure};

/// Name of the file that is written last into a folder.
pub const MANIFEST: &str = "MANIFEST.json";

/// How unfinished files and folders are called until they are whole.
const UNFINISHED: &str = ".tmp-";
/// How a folder is called for the moment in which its successor takes its place.
const REPLACED: &str = ".old-";

/// Writes a file: into a scratch file beside it, to the disk, then renamed over `path`.
///
/// # Errors
/// A folder that is missing or cannot be written, a full disk. `path` is then as it was before.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_file_inner(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn write_file_inner(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let parent = parent_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    // tempfile's own 0600 would stay with the finished file; the umask still applies to this one.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut scratch = builder.tempfile_in(parent)?;
    scratch.write_all(bytes)?;
    scratch.as_file().sync_all()?;
    scratch.persist(path).map_err(|error| error.error)?;
    sync_folder(parent)
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`write_file`], and a value that JSON cannot hold.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).with_context(|| format!("cannot write {} as JSON", path.display()))?;
    text.push('\n');
    write_file(path, text.as_bytes())
}

/// What to do where the folder exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and fail.
    Refuse,
    /// Put the new one in its place.
    Replace,
}

/// Sizes and hashes of a folder's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// File name → what it must hold.
    pub files: BTreeMap<String, ManifestEntry>,
}

/// One file of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Writes a folder of files with a [`Manifest`]: everything into `.tmp-…` beside it, the manifest last, all of it to
/// the disk, then renamed to `path`.
///
/// # Errors
/// A name that is not a plain file name, a folder that exists where `existing` says to refuse, or a disk that cannot be
/// written. Nothing is then left at `path` that was not there before.
pub fn write_folder(path: &Path, files: &[(&str, &[u8])], existing: Existing) -> anyhow::Result<()> {
    for (name, _) in files {
        let plain = !name.is_empty() && *name != MANIFEST && Path::new(name).file_name().is_some_and(|f| f == *name);
        ensure!(plain, "\"{name}\" is not a plain file name");
    }
    if existing == Existing::Refuse && path.exists() {
        return Err(failure(
            Kind::Usage,
            format!("{} exists already; choose another name or remove it first", path.display()),
        ));
    }
    write_folder_inner(path, files).with_context(|| format!("cannot write the folder {}", path.display()))
}

fn write_folder_inner(path: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let parent = parent_of(path);
    let name = path.file_name().context("it has no name")?.to_string_lossy();
    fs::create_dir_all(parent)?;
    let scratch = tempfile::Builder::new().prefix(&format!("{UNFINISHED}{name}-")).tempdir_in(parent)?;
    #[cfg(unix)]
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut manifest = Manifest { files: BTreeMap::new() };
    for (name, bytes) in files {
        write_new(&scratch.path().join(name), bytes)?;
        let entry = ManifestEntry { bytes: bytes.len() as u64, sha256: sha256_hex(bytes) };
        manifest.files.insert((*name).to_owned(), entry);
    }
    write_new(&scratch.path().join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    sync_folder(scratch.path())?;
    // A folder cannot be renamed over another: the old one steps aside first, and comes back if that fails.
    let old = parent.join(format!("{REPLACED}{name}"));
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    let replacing = path.exists();
    if replacing {
        fs::rename(path, &old)?;
    }
    if let Err(error) = fs::rename(scratch.path(), path) {
        if replacing {
            fs::rename(&old, path)?;
        }
        return Err(error.into());
    }
    // Renamed: there is nothing left for the scratch folder's destructor to remove.
    let _ = scratch.keep();
    sync_folder(parent)?;
    if replacing {
        fs::remove_dir_all(&old)?;
    }
    Ok(())
}

/// Reads a folder that [`write_folder`] wrote, and checks every byte.
///
/// # Errors
/// A missing manifest, a file that is missing, or one that differs from the manifest in size or hash.
pub fn read_folder(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let text = fs::read(path.join(MANIFEST)).with_context(|| format!("{} has no {MANIFEST}", path.display()))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| format!("{}/{MANIFEST} is broken", path.display()))?;
    let mut files = BTreeMap::new();
    for (name, entry) in manifest.files {
        let file = path.join(&name);
        let bytes = fs::read(&file).with_context(|| format!("{} is missing", file.display()))?;
        if bytes.len() as u64 != entry.bytes {
            bail!("{} has {} bytes, its manifest says {}", file.display(), bytes.len(), entry.bytes);
        }
        if sha256_hex(&bytes) != entry.sha256 {
            bail!("{} differs from the hash in its manifest", file.display());
        }
        files.insert(name, bytes);
    }
    Ok(files)
}

/// Removes what a crash left unfinished in `folder` and puts back a folder that was about to be replaced; returns what
/// it touched. Call it only under the run's lock.
///
/// # Errors
/// A folder that cannot be read or changed.
pub fn clean_leftovers(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut touched = Vec::new();
    if !folder.exists() {
        return Ok(touched);
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let finished = name.strip_prefix(REPLACED).map(|finished| folder.join(finished));
        match finished {
            Some(finished) if !finished.exists() => fs::rename(&path, &finished)?,
            Some(_) => fs::remove_dir_all(&path)?,
            None if !name.starts_with(UNFINISHED) => continue,
            None if path.is_dir() => fs::remove_dir_all(&path)?,
            None => fs::remove_file(&path)?,
        }
        touched.push(path);
    }
    touched.sort();
    Ok(touched)
}

fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

/// The folder that a path stands in; `.` for a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename last: on Unix the folder itself has to reach the disk.
fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(&folder.path().join("missing/a.json"), b"one").unwrap_err();
        assert!(error.to_string().contains("missing/a.json"), "{error}");
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_finished_file_can_be_read_by_others_as_the_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        File::create(&plain).unwrap();
        let atomic = folder.path().join("atomic");
        write_file(&atomic, b"").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&atomic), mode(&plain));
    }

    #[test]
    fn a_folder_reads_back_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        write_folder(&path, &[("a.bin", &[1, 2, 3]), ("b.json", b"{}")], Existing::Refuse).unwrap();
        let files = read_folder(&path).unwrap();
        assert_eq!(files["a.bin"], [1, 2, 3]);
        assert_eq!(files["b.json"], b"{}");
        assert_eq!(names(folder.path()), ["adapter"]);
    }

    #[test]
    fn an_existing_folder_is_refused_or_replaced_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        write_folder(&path, &[("old", b"1")], Existing::Refuse).unwrap();
        let error = write_folder(&path, &[("new", b"2")], Existing::Refuse).unwrap_err();
        assert_eq!(crate::files::error::kind_of(&error), Kind::Usage);
        assert!(read_folder(&path).unwrap().contains_key("old"));
        write_folder(&path, &[("new", b"2")], Existing::Replace).unwrap();
        assert_eq!(read_folder(&path).unwrap().into_keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(names(folder.path()), ["adapter"]);
    }

    #[test]
    fn a_changed_a_shortened_and_a_missing_file_are_each_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        write_folder(&path, &[("a.bin", &[1, 2, 3])], Existing::Refuse).unwrap();
        let file = path.join("a.bin");
        for (bytes, says) in [(&[1, 2, 4][..], "hash"), (&[1, 2][..], "2 bytes, its manifest says 3")] {
            fs::write(&file, bytes).unwrap();
            assert!(read_folder(&path).unwrap_err().to_string().contains(says));
        }
        fs::remove_file(&file).unwrap();
        assert!(read_folder(&path).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../a", "a/b", "", "..", MANIFEST] {
            assert!(write_folder(&folder.path().join("c"), &[(name, b"")], Existing::Refuse).is_err(), "{name}");
        }
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_and_a_half_replaced_folder_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".tmp-abc"), b"half").unwrap();
        fs::create_dir(folder.path().join(".tmp-step-1-x")).unwrap();
        fs::create_dir(folder.path().join(".old-adapter")).unwrap();
        fs::write(folder.path().join("keep.json"), b"{}").unwrap();
        assert_eq!(clean_leftovers(folder.path()).unwrap().len(), 3);
        assert_eq!(names(folder.path()), ["adapter", "keep.json"]);
    }
}
