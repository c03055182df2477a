//! Changes of a cluster: members that are replaced, and backups that are restored.

use std::path::PathBuf;
use std::sync::Arc;

use super::options::{cluster, data};
use super::{Etcd, Ports};
use crate::client::work;
use crate::error::Context as _;
use crate::wait::until;
use crate::{Error, Result};

/// A backup of all keys and leases.
#[derive(Debug)]
pub struct Backup {
    file: PathBuf,
}

impl Etcd {
    /// Removes a member from the cluster, ends it, and adds one with another name, port and directory in its place.
    ///
    /// # Errors
    ///
    /// If the others do not accept that, or the new member does not start.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn replace(&mut self, i: usize) -> Result<()> {
        let old = &self.members[i];
        let id = format!("{:x}", old.status()?.member);
        let others = || self.members.iter().filter(|member| member.port() != old.port());
        let ports: Vec<_> = others().map(super::EtcdMember::port).collect();
        // The others accept a change only when all have been connected for a while.
        let change = |args: &[&str]| until("the members to change", || self.access.command(&ports, args));
        change(&["member", "remove", &id])?;
        old.kill9();
        let (name, new) = (format!("{}-new", old.name), Arc::new(Ports::free()?));
        change(&["member", "add", &name, &format!("--peer-urls={}", new.peer_url())])?;
        let members = others().map(|member| (&member.name, &member.ports)).chain([(&name, &new)]);
        let existing = ["--initial-cluster-state=existing"];
        let cluster = cluster(members);
        let member = self.options.prepare(
            &self.scratch,
            &name,
            &cluster,
            Arc::clone(&new),
            &self.access,
            &existing,
        )?;
        member.restart()?;
        self.members[i] = member;
        Ok(())
    }

    /// Saves all keys and leases.
    ///
    /// # Errors
    ///
    /// If the first member does not answer.
    pub fn back_up(&self) -> Result<Backup> {
        let file = self.scratch.path().join("backup");
        self.members[0].command(&["snapshot", "save", &file.to_string_lossy()])?;
        Ok(Backup { file })
    }

    /// Kills all members, and starts them with what was saved.
    ///
    /// # Errors
    ///
    /// If it cannot be restored, or a member does not start.
    pub fn restore(&self, backup: &Backup) -> Result<()> {
        let cluster = cluster(self.members.iter().map(|member| (&member.name, &member.ports)));
        self.members.iter().for_each(|member| member.kill9());
        for member in &self.members {
            let data = data(&self.scratch, member);
            std::fs::remove_dir_all(&data).context("cannot remove the data of a member")?;
            let mut command = self.access.etcdctl(&[member.port()])?;
            command.args(["snapshot", "restore"]).arg(&backup.file).args([
                format!("--name={}", member.name),
                format!("--data-dir={}", data.display()),
                format!("--initial-cluster={cluster}"),
                format!("--initial-advertise-peer-urls={}", member.ports.peer_url()),
            ]);
            work(&command).map_err(|error| Error::new(format!("cannot restore a backup: {error}")))?;
        }
        self.members.iter().try_for_each(|member| member.launch())?;
        self.members.iter().try_for_each(|member| member.await_ready())
    }
}
