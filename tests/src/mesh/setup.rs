//! What one test wants otherwise than all the others.

/// What is not as usual in a mesh.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Environment of agents, after what they are given anyway.
    pub agent: Vec<(String, String)>,
    /// Environment of the agent of one node, after that.
    pub agent_of: Vec<(String, String, String)>,
    /// Environment of waypoints, after what they are given anyway.
    pub waypoint: Vec<(String, String)>,
    /// Further arguments of the controller.
    pub controller: Vec<String>,
    /// A command, with its arguments, that becomes the agent: `setpriv`, say.
    pub through: Vec<String>,
    /// Nodes whose agents are kept on one core, and which.
    pub cores: Vec<(String, usize)>,
}

impl Setup {
    /// With `name` in the environment of agents.
    #[must_use]
    pub fn agent(mut self, name: &str, value: &str) -> Setup {
        self.agent.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With `name` in the environment of the agent of `node`.
    #[must_use]
    pub fn agent_of(mut self, node: &str, name: &str, value: &str) -> Setup {
        self.agent_of.push((node.to_owned(), name.to_owned(), value.to_owned()));
        self
    }

    /// With `name` in the environment of waypoints.
    #[must_use]
    pub fn waypoint(mut self, name: &str, value: &str) -> Setup {
        self.waypoint.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the agent of `node` kept on one core.
    #[must_use]
    pub fn core(mut self, node: &str, core: usize) -> Setup {
        self.cores.push((node.to_owned(), core));
        self
    }

    /// With arguments for the controller.
    #[must_use]
    pub fn controller(mut self, arguments: &[&str]) -> Setup {
        self.controller.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }
}
