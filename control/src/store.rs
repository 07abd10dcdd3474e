//! The state file: sessions whose listeners relay, and which run of the forwarder knows of their flows.
//!
//! A session is put here once the forwarder has its flows, and taken out before they are removed. So after a crash each flow of ours
//! that no record tells of is half-made or half-removed, and each record is of a session that its user was told of.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use crate::session::Session;

/// By id.
const SESSIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sessions");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// Key of the forwarder's run in `META`.
const INSTANCE: &str = "forwarder";
/// Key and value of the shape of the records in `META`.
const SHAPE: (&str, &str) = ("shape", "1");
/// Most changes that one commit carries.
const BATCH: usize = 512;

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system or the database.
    #[error("the state file {} cannot be used ({detail}); see that its directory can be written to, and that no other s2cs has it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
    /// It is of another release.
    #[error("the state file {} is of shape {found:?} and this release reads {:?}; use the release that wrote it, or move it away to begin anew", path.display(), SHAPE.1)]
    Shape {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A record cannot be read.
    #[error("record {id:016x} of the state file {} cannot be read ({detail}); restore the file, or move it away to begin anew", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Session's id.
        id: u64,
        /// Why.
        detail: String,
    },
    /// The thread that writes has ended.
    #[error("the state file cannot be written any more; see the log, and start s2cs again")]
    Gone,
    /// A commit failed.
    #[error("the state file cannot be written ({0}); see that its disk is not full")]
    Commit(String),
}

/// A change to the file.
#[derive(Debug)]
enum Change {
    Put(u64, Vec<u8>),
    Remove(u64),
    Instance(String),
}

type Job = (Change, oneshot::Sender<Result<(), StoreError>>);

/// Writes the state file; changes that are waiting are committed together. When a call returns, what it wrote survives a crash.
#[derive(Debug)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

/// What a state file held.
#[derive(Debug, Default)]
pub struct Kept {
    /// Sessions, in no order.
    pub sessions: Vec<Session>,
    /// Run of the forwarder that their flows were last made in.
    pub instance: Option<String>,
}

impl Store {
    /// Opens or makes the file, and reads it.
    ///
    /// # Errors
    /// It cannot be read or written, another process has it, or it is of another release.
    pub fn open(path: &Path) -> Result<(Store, Kept), StoreError> {
        let file =
            |e: &dyn std::fmt::Display| StoreError::File { path: path.to_owned(), detail: e.to_string() };
        let database = Database::create(path).map_err(|e| file(&e))?;
        let kept = prepare(&database, path).map_err(|e| match e {
            Failure::Database(e) => file(&e),
            Failure::Ours(e) => e,
        })?;
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let path = path.to_owned();
                move || write(&path, database, &queue)
            })
            .map_err(|e| file(&e))?;
        Ok((Store { jobs }, kept))
    }

    /// Puts a session in the place of its older record.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn put(&self, session: &Session) -> Result<(), StoreError> {
        let record = serde_json::to_vec(session).map_err(|e| StoreError::Commit(e.to_string()))?;
        self.change(Change::Put(session.id, record)).await
    }

    /// Removes a session; one that is not there is no error.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn remove(&self, id: u64) -> Result<(), StoreError> {
        self.change(Change::Remove(id)).await
    }

    /// Notes which run of the forwarder knows of our flows.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn set_instance(&self, instance: &str) -> Result<(), StoreError> {
        self.change(Change::Instance(instance.to_owned())).await
    }

    async fn change(&self, change: Change) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        self.jobs.send((change, done)).map_err(|_| StoreError::Gone)?;
        outcome.await.map_err(|_| StoreError::Gone)?
    }
}

enum Failure {
    Database(redb::Error),
    Ours(StoreError),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::Database(e.into())
    }
}

fn prepare(database: &Database, path: &Path) -> Result<Kept, Failure> {
    let begin = database.begin_write()?;
    {
        begin.open_table(SESSIONS)?;
        let mut meta = begin.open_table(META)?;
        let found = meta.get(SHAPE.0)?.map(|v| v.value().to_owned());
        match found {
            None => {
                meta.insert(SHAPE.0, SHAPE.1)?;
            }
            Some(found) if found != SHAPE.1 => {
                return Err(Failure::Ours(StoreError::Shape { path: path.to_owned(), found }));
            }
            Some(_) => {}
        }
    }
    begin.commit()?;
    let read = database.begin_read()?;
    let mut kept = Kept::default();
    for row in read.open_table(SESSIONS)?.iter()? {
        let (id, record) = row?;
        let session = serde_json::from_slice(record.value()).map_err(|e| {
            Failure::Ours(StoreError::Record { path: path.to_owned(), id: id.value(), detail: e.to_string() })
        })?;
        kept.sessions.push(session);
    }
    kept.instance = read.open_table(META)?.get(INSTANCE)?.map(|v| v.value().to_owned());
    Ok(kept)
}

/// Commits until nobody can ask any more. A database that has failed once takes nothing until it is opened anew.
fn write(path: &Path, database: Database, queue: &mpsc::Receiver<Job>) {
    let mut database = Some(database);
    while let Ok(first) = queue.recv() {
        let jobs: Vec<Job> = std::iter::once(first).chain(queue.try_iter().take(BATCH)).collect();
        let opened = database.take().map_or_else(|| Database::open(path).map_err(redb::Error::from), Ok);
        let outcome = opened.and_then(|opened| {
            commit(&opened, &jobs)?;
            database = Some(opened);
            Ok(())
        });
        let outcome = outcome.map_err(|e: redb::Error| e.to_string());
        if let Err(error) = &outcome {
            tracing::error!(%error, "the state file cannot be written");
        }
        for (_, done) in jobs {
            // Who asked may have gone.
            _ = done.send(outcome.clone().map_err(StoreError::Commit));
        }
    }
}

fn commit(database: &Database, jobs: &[Job]) -> Result<(), redb::Error> {
    // The last word on each record is the one that counts.
    let mut records: HashMap<u64, Option<&[u8]>> = HashMap::new();
    let mut instance = None;
    for (change, _) in jobs {
        match change {
            Change::Put(id, record) => _ = records.insert(*id, Some(record)),
            Change::Remove(id) => _ = records.insert(*id, None),
            Change::Instance(text) => instance = Some(text),
        }
    }
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(SESSIONS)?;
        for (id, record) in records {
            match record {
                Some(record) => _ = table.insert(id, record)?,
                None => _ = table.remove(id)?,
            }
        }
        if let Some(instance) = instance {
            write.open_table(META)?.insert(INSTANCE, instance.as_str())?;
        }
    }
    write.commit()?;
    Ok(())
}
