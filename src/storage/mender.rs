//! Makes a journal with a torn end or damage one that is sound, and holds all that was sound before.
//!
//! What is torn is cut off, or overwritten with zeros, from the back, so that a crash on the way leaves a torn end again.
//! A damaged segment is kept
//! aside as `journal-….damaged`, and a new one with its sound frames takes its name. Each segment is mended for itself,
//! since it stays at its position: a crash on the way leaves the others for the next time.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    disk::Disk,
    format::{self, HEADER_BYTES, Header, SEGMENT_BYTES_MAX},
    reader::{Piece, Survey},
};

/// Cuts off what is torn, and mends what is damaged.
pub(super) fn mend(disk: &dyn Disk, dir: &Path, survey: &mut Survey, salt: u64) -> Result<(), StoreError> {
    if let Some((torn, offset)) = survey.torn {
        let keeps = offset >= HEADER_BYTES || survey.pieces[torn].bad;
        cut(disk, dir, &mut survey.pieces, torn + usize::from(keeps))?;
        if let Some(piece) = survey.pieces.get_mut(torn) {
            piece.kept.retain(|frames| frames.start < offset);
            piece.offset = offset.max(HEADER_BYTES);
            piece.end = survey.position;
            if !piece.bad {
                let file = disk.open(&piece.path).map_err(StoreError::io("open", &piece.path))?;
                // The space stays the journal's own; a file that is shorter than it was made is damaged.
                let zeros = vec![0; (piece.size as usize).saturating_sub(offset)];
                file.write_at(&zeros, offset as u64).map_err(StoreError::io("cut", &piece.path))?;
                file.sync().map_err(StoreError::io("sync", &piece.path))?;
            }
        }
    }
    // What is made ready for later holds nothing; one is enough.
    let written = survey.pieces.iter().rposition(|piece| !piece.blank).map_or(0, |last| last + 1);
    let spares = survey.pieces[written..].iter().take_while(|piece| !piece.bad).count().min(1);
    cut(disk, dir, &mut survey.pieces, written + spares)?;
    for piece in survey.pieces.iter_mut().filter(|piece| piece.bad) {
        set_aside(disk, dir, &piece.path)?;
        renew(disk, dir, piece, salt)?;
    }
    Ok(())
}

/// Removes all pieces but the first `count`, the last one first.
fn cut(disk: &dyn Disk, dir: &Path, pieces: &mut Vec<Piece>, count: usize) -> Result<(), StoreError> {
    while pieces.len() > count {
        let Some(piece) = pieces.pop() else { break };
        disk.remove(&piece.path).map_err(StoreError::io("remove", &piece.path))?;
        disk.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
    }
    Ok(())
}

/// Gives a file a second name under which nothing touches it.
fn set_aside(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), StoreError> {
    for attempt in 1_u32.. {
        let ending = if attempt == 1 { String::from("damaged") } else { format!("damaged-{attempt}") };
        let aside = path.with_extension(ending);
        match disk.link(path, &aside) {
            Ok(()) => break,
            // A crash came between this and the next step.
            Err(_) if same(path, &aside) => break,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("keep a copy at", &aside)(error)),
        }
    }
    disk.sync_dir(dir).map_err(StoreError::io("sync", dir))
}

fn same(one: &Path, other: &Path) -> bool {
    let place = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    place(one).is_some() && place(one) == place(other)
}

/// Writes a segment anew with its sound frames, which move together.
fn renew(disk: &dyn Disk, dir: &Path, piece: &mut Piece, salt: u64) -> Result<(), StoreError> {
    let mut old = Vec::new();
    let read = File::open(&piece.path).and_then(|file| file.take(SEGMENT_BYTES_MAX).read_to_end(&mut old));
    read.map_err(StoreError::io("read", &piece.path))?;
    let mut new = vec![0; HEADER_BYTES];
    let mut moved = Vec::new();
    for frames in &piece.kept {
        let mut at = frames.start;
        while at < frames.end {
            let length = format::frame_bytes(&old[at..]);
            moved.push(new.len()..new.len() + length);
            new.extend_from_slice(&old[at..at + length]);
            at += length;
        }
    }
    for frame in moved {
        let position = piece.start + (frame.start - HEADER_BYTES) as u64;
        format::seal(&mut new[frame], salt, position, 0);
    }
    // A segment that was moved down to fill a gap still ends where the next one starts.
    let end = piece.end.max(piece.start + (new.len() - HEADER_BYTES) as u64);
    let header = Header { number: piece.number, start: piece.start, end, size: new.len() as u64, salt };
    new[..HEADER_BYTES].copy_from_slice(&header.encode());
    let fresh: PathBuf = piece.path.with_extension("mending");
    let file = disk.open(&fresh).map_err(StoreError::io("make", &fresh))?;
    file.truncate(0).map_err(StoreError::io("write to", &fresh))?;
    file.write_at(&new, 0).map_err(StoreError::io("write to", &fresh))?;
    file.sync().map_err(StoreError::io("sync", &fresh))?;
    disk.rename(&fresh, &piece.path).map_err(StoreError::io("rename", &fresh))?;
    disk.sync_dir(dir).map_err(StoreError::io("sync", dir))
}
