//! Instance profiles of machines: the environment's own, or that of the ServiceAccount and the Secrets that the pod names.

use super::environment::Aws;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::role::{self, InstanceProfile};
use crate::cloud::aws::plan::stack_templates::Frame;
use crate::manifest::api::Name;
use crate::plan::fleet::LaunchSpec;

impl Aws {
    /// The name of the instance profile, which is made when it does not exist.
    pub(super) async fn profile(
        &self,
        (group, is_job): (&Name, bool),
        launch: &LaunchSpec,
        frame: &Frame,
    ) -> Result<String, CloudError> {
        let Some(wanted) = InstanceProfile::of(group, is_job, launch) else {
            return Ok(frame.profile.clone());
        };
        let boundary = self.settings.boundary.as_deref();
        let plan = role::stack(&self.settings.environment, &wanted, boundary);
        self.put_stack(&plan).await?.output("Profile")
    }
}
