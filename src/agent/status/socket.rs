use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Snapshot, Status};

/// How long one who asks may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket that gives the status, as JSON, to whoever connects. Only the agent's own user may; the file is taken away when this
/// is dropped, unless it is another process's by then.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Nobody listens there, or may not be asked.
    #[error("cannot ask at {0}: {1}; is the agent running, and as this user?")]
    Connect(PathBuf, io::Error),
    /// What came is no status.
    #[error("what {0} says is no status: {1}")]
    Malformed(PathBuf, String),
}

// === impl StatusSocket ===

impl StatusSocket {
    /// Makes the socket, with mode 0600, and the folder that it is in. A file that is there is replaced: it is of an agent
    /// that is gone, or of one that this process takes over from.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        // Under another name until only its owner may use it.
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        let listener = UnixListener::bind(&new)?;
        let made = fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&new))
            .and_then(|metadata| fs::rename(&new, path).map(|()| metadata.ino()));
        match made {
            Ok(inode) => Ok(Self { listener, path: path.to_owned(), inode }),
            Err(error) => {
                let _ = fs::remove_file(&new);
                Err(error)
            }
        }
    }

    /// Answers until `stop`.
    pub async fn serve(self, status: Status, stop: CancellationToken) {
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            let Ok((mut stream, _)) = accepted else {
                // Out of file descriptors, most likely.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Strings, numbers, and lists of them always become JSON.
            let mut text = serde_json::to_vec(&status.snapshot()).unwrap_or_default();
            text.push(b'\n');
            tokio::spawn(async move {
                let _ = timeout(PATIENCE, async {
                    stream.write_all(&text).await?;
                    stream.shutdown().await
                })
                .await;
            });
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Asks the agent at `path`.
pub async fn read(path: &Path) -> Result<Snapshot, SocketError> {
    let asked = async {
        let mut text = Vec::new();
        UnixStream::connect(path).await?.read_to_end(&mut text).await?;
        Ok(text)
    };
    let text = timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let text = text.map_err(|error| SocketError::Connect(path.to_owned(), error))?;
    serde_json::from_slice(&text).map_err(|error| SocketError::Malformed(path.to_owned(), error.to_string()))
}
