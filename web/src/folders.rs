//! Files and folders that a person hands over, each file with its path.

use hydra_playground::files::{Place, place};
use hydra_shared::gradients::{AIM, MOST_FILES};
use js_sys::{Array, Function, Promise, Reflect};
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{DataTransfer, File, FileList, FileSystemDirectoryEntry, FileSystemEntry, FileSystemFileEntry};

use crate::intake::{Intake, Named, Progress};
use crate::worker::text_of;

/// The files of a list. Of a folder that was chosen the browser knows each file's place in it.
pub fn named(files: Option<FileList>) -> Vec<Named> {
    let files = files.map(|files| (0..files.length()).filter_map(|index| files.get(index)).collect::<Vec<_>>());
    files.unwrap_or_default().into_iter().map(|file| (path_of(&file), file)).collect()
}

fn path_of(file: &File) -> String {
    let path = Reflect::get(file, &"webkitRelativePath".into()).ok().and_then(|path| path.as_string());
    path.filter(|path| !path.is_empty()).unwrap_or_else(|| file.name())
}

/// What was dropped: files, and folders that have to be looked into. The browser tells only while the event lasts.
pub fn dropped(data: &DataTransfer) -> (Vec<Named>, Vec<FileSystemEntry>) {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let items = data.items();
    for item in (0..items.length()).filter_map(|index| items.get(index)) {
        match item.webkit_get_as_entry().ok().flatten().filter(FileSystemEntry::is_directory) {
            Some(folder) => folders.push(folder),
            None => files.extend(item.get_as_file().ok().flatten().map(|file| (path_of(&file), file))),
        }
    }
    (files, folders)
}

/// Reads files, and those of folders.
pub fn open(intake: Intake, mut files: Vec<Named>, folders: Vec<FileSystemEntry>) {
    let name = folders.first().map(FileSystemEntry::name).unwrap_or_default();
    intake.progress.set(Some(Progress { file: name.clone(), share: 0.0 }));
    spawn_local(async move {
        match files_below(folders).await {
            Ok(found) => {
                files.extend(found);
                intake.progress.set(None);
                intake.open(files);
            }
            Err(error) => intake.fail(&format!("{name}: {error}")),
        }
    });
}

async fn files_below(folders: Vec<FileSystemEntry>) -> Result<Vec<Named>, String> {
    let mut found: Vec<Named> = Vec::new();
    let mut left = folders;
    while let Some(entry) = left.pop() {
        let path = entry.full_path().trim_start_matches('/').to_owned();
        let folder = entry.is_directory();
        match place(&if folder { format!("{path}/") } else { path.clone() }) {
            Place::Aim => return Err(AIM.to_owned()),
            Place::Hidden => continue,
            Place::Itself | Place::Directly | Place::Deeper => {}
        }
        if !folder {
            let entry: FileSystemFileEntry = entry.unchecked_into();
            let file = called(|taken, failed| entry.file_with_callback_and_callback(taken, failed)).await?;
            found.push((path, file.unchecked_into()));
            if found.len() > MOST_FILES {
                return Err(format!("it holds more than {MOST_FILES} files; drop the folder of one run"));
            }
            continue;
        }
        let reader = entry.unchecked_into::<FileSystemDirectoryEntry>().create_reader();
        loop {
            // A part of them at a time, until there are none.
            let start = |taken: &Function, failed: &Function| {
                let _ = reader.read_entries_with_callback_and_callback(taken, failed);
            };
            let entries: Array = called(start).await?.unchecked_into();
            if entries.length() == 0 {
                break;
            }
            left.extend(entries.iter().map(JsCast::unchecked_into::<FileSystemEntry>));
        }
    }
    Ok(found)
}

/// Waits for what calls one of two functions.
async fn called(start: impl Fn(&Function, &Function)) -> Result<JsValue, String> {
    let promise = Promise::new(&mut |taken, failed| start(&taken, &failed));
    JsFuture::from(promise).await.map_err(|error| text_of(&error))
}
