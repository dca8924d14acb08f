//! Where all of it runs: a namespace with a loopback of its own, files, certificates and the programs of others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::download::ENVOY;

use super::authority::Authority;
use super::proxy::Who;
use crate::netns::Netns;
use crate::place::Place;
use crate::program::find;
use crate::run::Run;

/// Dropped after the programs that it holds.
pub(super) struct Ground {
    pub(super) place: Place,
    pub(super) authority: Authority,
    pub(super) run: Run,
    envoy: Option<PathBuf>,
}

impl Ground {
    /// `asked`: whose programs are wanted. What cannot be had is said and left out.
    pub(super) fn prepare(asked: &[Who]) -> Result<(Ground, Vec<Who>)> {
        let envoy = match asked.contains(&Who::Envoy).then(|| ENVOY.fetch()) {
            Some(Ok(program)) => Some(program),
            Some(Err(error)) => {
                println!("without Envoy: {error:#}");
                None
            }
            None => None,
        };
        let run = Run::new("bench-l7")?;
        let place = Place::new(&run, "l7", Netns::make(&run, "l7")?, "l7")?;
        // New connections leave by the thousand; the defaults end at 28,000 a minute.
        place.netns().sysctl(&[("ipv4/ip_local_port_range", "10000 65000"), ("ipv4/tcp_tw_reuse", "1")])?;
        let authority = Authority::make(place.dir())?;
        let ground = Ground { place, authority, run, envoy };
        let mut there = Vec::new();
        for who in asked.iter().copied() {
            match ground.program(who).as_deref().map(|program| find(program).is_some()) {
                Some(true) => there.push(who),
                Some(false) => println!("without {}: it is not installed", who.name()),
                None => {}
            }
        }
        Ok((ground, there))
    }

    /// The program of `who`: a path, or a name to be looked for. `None`: there is none.
    pub(super) fn program(&self, who: Who) -> Option<String> {
        match who {
            Who::Envoy => self.envoy.as_ref().map(|path| path.display().to_string()),
            Who::Weft => crate::program::built("hop").ok(),
            Who::Nginx => Some("nginx".to_owned()),
            Who::Haproxy => Some("haproxy".to_owned()),
        }
    }

    /// Certificates, and a folder for files of `who`.
    pub(super) fn folder(&self, who: Who) -> Result<PathBuf> {
        let dir = self.place.dir().join(who.name().to_lowercase());
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }

    pub(super) fn certificates(&self) -> &Path {
        self.place.dir()
    }
}
