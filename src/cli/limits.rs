/// Takes all the open files that the system grants: the usual soft limit of 1,024 would be the end of the links (or
/// visitors) of a process that has two sockets for each. Where it cannot, the process works up to the limit it has.
pub(super) fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            limit.current = limit.maximum;
            if let Err(error) = setrlimit(Resource::Nofile, limit) {
                tracing::debug!("the limit of open files stays as it is: {error}");
            }
        }
    }
}
