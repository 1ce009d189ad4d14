//! Instance profiles of machines: the environment's own, or that of the ServiceAccount that the pod names.

use super::Aws;
use crate::cloud::CloudError;
use crate::plan::aws::frame::Frame;
use crate::plan::aws::role;
use crate::plan::fleet::LaunchSpec;

impl Aws {
    /// The name of the instance profile, which is made when it does not exist.
    pub(super) async fn profile(&self, launch: &LaunchSpec, frame: &Frame) -> Result<String, CloudError> {
        let Some(wanted) = &launch.role else { return Ok(frame.profile.clone()) };
        self.put_stack(&role::stack(&self.settings.environment, wanted)).await?.output("Profile")
    }
}
