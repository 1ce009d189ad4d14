//! Every call of AWS that i2kit makes, in one table: the policy of `iam-policy` and the simulation of `preflight` come
//! from it, and a test holds it against the calls that a whole deployment makes.

/// What of the account a call may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// It only reads, and AWS knows no narrower resource for it.
    Looks,
    /// It creates something, which gets the environment's tag in the same call.
    Makes,
    /// It tags what another call is just creating, and nothing that exists.
    Tags,
    /// It changes something that has the environment's tag, or reads what is in it.
    Changes,
    /// It is about stacks, whose names the policy gives by their kinds.
    Stacks,
    /// It is about the environment's log groups: lines are read by us, and CloudFormation keeps it.
    Logs,
    /// It keeps or deletes the values of a Secret, or the key that their versions are made with.
    Keeps,
    /// It reads that key. Values are read by machines alone.
    Key,
    /// Auto Scaling checks that the caller may launch the machines of a launch template. Template, image and security group
    /// have the environment's tag, machine and volume get it; this is the rest, which has no tag, and nothing is launched
    /// without a template.
    Launches,
    /// It passes the machines' role to EC2.
    Passes,
    /// EBS uses a key of the account for us, where its owner lets us: disks are encrypted where the account says so.
    Encrypts,
    /// It makes the roles that services of AWS act with, which an account gets when it uses them for the first time.
    Linked,
    /// CloudFormation makes it for us, with our permissions and on no other occasion.
    Frame,
    /// The same where something is deleted that has the environment's tag.
    Removes,
    /// The same, of the roles and instance profiles below the environment's path.
    Roles,
    /// The same, of what gives such a role anything: within the boundary that the environment names.
    Grants,
}

/// All of them, in the order of the policy's statements.
pub const SCOPES: [Scope; 16] = [
    Scope::Looks,
    Scope::Makes,
    Scope::Tags,
    Scope::Changes,
    Scope::Stacks,
    Scope::Logs,
    Scope::Keeps,
    Scope::Key,
    Scope::Launches,
    Scope::Passes,
    Scope::Encrypts,
    Scope::Linked,
    Scope::Frame,
    Scope::Removes,
    Scope::Roles,
    Scope::Grants,
];

impl Scope {
    /// Whether services of AWS make these calls for us.
    pub fn is_of_aws(self) -> bool {
        matches!(self, Self::Encrypts | Self::Frame | Self::Removes | Self::Roles | Self::Grants)
    }
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The action in IAM's words.
    pub action: &'static str,
    /// What it may touch.
    pub scope: Scope,
}

const fn call(scope: Scope, action: &'static str) -> Call {
    Call { action, scope }
}

/// The table.
pub const CALLS: &[Call] = &[
    call(Scope::Looks, "acm:DescribeCertificate"),
    call(Scope::Looks, "acm:ListCertificates"),
    call(Scope::Looks, "autoscaling:DescribeAutoScalingGroups"),
    call(Scope::Looks, "autoscaling:DescribeInstanceRefreshes"),
    call(Scope::Looks, "autoscaling:DescribePolicies"),
    call(Scope::Looks, "autoscaling:DescribeScalingActivities"),
    call(Scope::Looks, "cloudformation:DescribeStacks"),
    // Stacks are described without a name.
    call(Scope::Looks, "cloudformation:ListStacks"),
    call(Scope::Looks, "ec2:DescribeDhcpOptions"),
    call(Scope::Looks, "ec2:DescribeImages"),
    call(Scope::Looks, "ec2:DescribeInstanceTypeOfferings"),
    call(Scope::Looks, "ec2:DescribeInstanceTypes"),
    call(Scope::Looks, "ec2:DescribeInstances"),
    call(Scope::Looks, "ec2:DescribeLaunchTemplateVersions"),
    call(Scope::Looks, "ec2:DescribeLaunchTemplates"),
    call(Scope::Looks, "ec2:DescribeRouteTables"),
    call(Scope::Looks, "ec2:DescribeSnapshots"),
    call(Scope::Looks, "ec2:DescribeSubnets"),
    call(Scope::Looks, "ec2:DescribeVpcAttribute"),
    call(Scope::Looks, "ec2:DescribeVpcEndpoints"),
    // Route 53 asks for it, too, of who lists a VPC's zones.
    call(Scope::Looks, "ec2:DescribeVpcs"),
    call(Scope::Looks, "ec2:GetEbsDefaultKmsKeyId"),
    call(Scope::Looks, "ec2:GetEbsEncryptionByDefault"),
    call(Scope::Looks, "elasticloadbalancing:DescribeTargetHealth"),
    call(Scope::Looks, "iam:GetRole"),
    call(Scope::Looks, "iam:SimulatePrincipalPolicy"),
    call(Scope::Looks, "route53:ListHostedZonesByVPC"),
    call(Scope::Looks, "secretsmanager:ListSecrets"),
    call(Scope::Looks, "servicequotas:GetServiceQuota"),
    call(Scope::Looks, "sts:GetCallerIdentity"),
    call(Scope::Makes, "autoscaling:CreateAutoScalingGroup"),
    call(Scope::Makes, "ebs:StartSnapshot"),
    call(Scope::Makes, "ec2:CreateLaunchTemplate"),
    call(Scope::Makes, "ec2:RegisterImage"),
    // The machines of a launch template, and their volumes.
    call(Scope::Makes, "ec2:RunInstances"),
    call(Scope::Tags, "ec2:CreateTags"),
    call(Scope::Changes, "autoscaling:AttachLoadBalancerTargetGroups"),
    call(Scope::Changes, "autoscaling:CancelInstanceRefresh"),
    call(Scope::Changes, "autoscaling:CreateOrUpdateTags"),
    call(Scope::Changes, "autoscaling:DeleteAutoScalingGroup"),
    call(Scope::Changes, "autoscaling:DeletePolicy"),
    call(Scope::Changes, "autoscaling:DeleteScheduledAction"),
    call(Scope::Changes, "autoscaling:DetachLoadBalancerTargetGroups"),
    call(Scope::Changes, "autoscaling:PutScalingPolicy"),
    call(Scope::Changes, "autoscaling:PutScheduledUpdateGroupAction"),
    call(Scope::Changes, "autoscaling:RollbackInstanceRefresh"),
    call(Scope::Changes, "autoscaling:StartInstanceRefresh"),
    call(Scope::Changes, "autoscaling:UpdateAutoScalingGroup"),
    call(Scope::Changes, "ebs:CompleteSnapshot"),
    call(Scope::Changes, "ebs:GetSnapshotBlock"),
    call(Scope::Changes, "ebs:ListSnapshotBlocks"),
    call(Scope::Changes, "ebs:PutSnapshotBlock"),
    call(Scope::Changes, "ec2:CreateLaunchTemplateVersion"),
    call(Scope::Changes, "ec2:CreateTags"),
    call(Scope::Changes, "ec2:DeleteLaunchTemplate"),
    call(Scope::Changes, "ec2:DeleteLaunchTemplateVersions"),
    call(Scope::Changes, "ec2:DeleteSnapshot"),
    call(Scope::Changes, "ec2:DeregisterImage"),
    call(Scope::Changes, "ec2:GetConsoleOutput"),
    call(Scope::Changes, "ec2:ModifyLaunchTemplate"),
    // The snapshot that an image is registered on: it has its own tags, not those of the request.
    call(Scope::Changes, "ec2:RegisterImage"),
    // The launch template, its image and its security group.
    call(Scope::Changes, "ec2:RunInstances"),
    call(Scope::Stacks, "cloudformation:CreateStack"),
    call(Scope::Stacks, "cloudformation:DeleteStack"),
    call(Scope::Stacks, "cloudformation:DescribeStackEvents"),
    call(Scope::Stacks, "cloudformation:TagResource"),
    call(Scope::Stacks, "cloudformation:UpdateStack"),
    call(Scope::Logs, "logs:CreateLogGroup"),
    call(Scope::Logs, "logs:CreateLogStream"),
    call(Scope::Logs, "logs:DeleteLogGroup"),
    // The records of Jobs that are deleted.
    call(Scope::Logs, "logs:DeleteLogStream"),
    call(Scope::Logs, "logs:DescribeLogStreams"),
    call(Scope::Logs, "logs:FilterLogEvents"),
    call(Scope::Logs, "logs:GetDataProtectionPolicy"),
    call(Scope::Logs, "logs:ListTagsForResource"),
    // What a Job is started with is written into its record, as its machines do with what follows.
    call(Scope::Logs, "logs:PutLogEvents"),
    call(Scope::Logs, "logs:PutRetentionPolicy"),
    call(Scope::Logs, "logs:TagResource"),
    call(Scope::Logs, "logs:UntagResource"),
    call(Scope::Keeps, "secretsmanager:CreateSecret"),
    call(Scope::Keeps, "secretsmanager:DeleteSecret"),
    call(Scope::Keeps, "secretsmanager:DescribeSecret"),
    call(Scope::Keeps, "secretsmanager:TagResource"),
    call(Scope::Key, "secretsmanager:GetSecretValue"),
    call(Scope::Launches, "ec2:RunInstances"),
    call(Scope::Passes, "iam:PassRole"),
    call(Scope::Encrypts, "kms:CreateGrant"),
    call(Scope::Encrypts, "kms:Decrypt"),
    call(Scope::Encrypts, "kms:DescribeKey"),
    // The EBS direct APIs write blocks of a snapshot with these.
    call(Scope::Encrypts, "kms:Encrypt"),
    call(Scope::Encrypts, "kms:GenerateDataKey"),
    call(Scope::Encrypts, "kms:GenerateDataKeyWithoutPlaintext"),
    call(Scope::Encrypts, "kms:ReEncryptFrom"),
    call(Scope::Encrypts, "kms:ReEncryptTo"),
    call(Scope::Linked, "iam:CreateServiceLinkedRole"),
    // Exactly what AWS' handlers of the templates' resource types call, beside what we look at ourselves.
    call(Scope::Frame, "ec2:AssociateRouteTable"),
    call(Scope::Frame, "ec2:AttachInternetGateway"),
    call(Scope::Frame, "ec2:AuthorizeSecurityGroupIngress"),
    call(Scope::Frame, "ec2:CreateInternetGateway"),
    call(Scope::Frame, "ec2:CreateRoute"),
    call(Scope::Frame, "ec2:CreateRouteTable"),
    call(Scope::Frame, "ec2:CreateSecurityGroup"),
    call(Scope::Frame, "ec2:CreateSubnet"),
    call(Scope::Frame, "ec2:CreateTags"),
    call(Scope::Frame, "ec2:CreateVpc"),
    call(Scope::Frame, "ec2:DeleteRoute"),
    call(Scope::Frame, "ec2:DeleteTags"),
    // ELB asks for this one and the next of who makes a load balancer.
    call(Scope::Frame, "ec2:DescribeAccountAttributes"),
    call(Scope::Frame, "ec2:DescribeAddresses"),
    call(Scope::Frame, "ec2:DescribeInternetGateways"),
    call(Scope::Frame, "ec2:DescribeIpamPools"),
    call(Scope::Frame, "ec2:DescribeNetworkAcls"),
    call(Scope::Frame, "ec2:DescribeNetworkInterfaces"),
    call(Scope::Frame, "ec2:DescribeSecurityGroupRules"),
    call(Scope::Frame, "ec2:DescribeSecurityGroups"),
    call(Scope::Frame, "ec2:DescribeVpcEncryptionControls"),
    call(Scope::Frame, "ec2:DescribeVpnGateways"),
    call(Scope::Frame, "ec2:DetachInternetGateway"),
    call(Scope::Frame, "ec2:DisassociateRouteTable"),
    call(Scope::Frame, "ec2:ModifySubnetAttribute"),
    call(Scope::Frame, "ec2:ModifyVpcAttribute"),
    call(Scope::Frame, "ec2:ReplaceRoute"),
    call(Scope::Frame, "ec2:ReplaceRouteTableAssociation"),
    call(Scope::Frame, "ec2:RevokeSecurityGroupIngress"),
    call(Scope::Frame, "ec2:UpdateSecurityGroupRuleDescriptionsIngress"),
    call(Scope::Frame, "elasticloadbalancing:AddListenerCertificates"),
    call(Scope::Frame, "elasticloadbalancing:AddTags"),
    call(Scope::Frame, "elasticloadbalancing:CreateListener"),
    call(Scope::Frame, "elasticloadbalancing:CreateLoadBalancer"),
    call(Scope::Frame, "elasticloadbalancing:CreateRule"),
    call(Scope::Frame, "elasticloadbalancing:CreateTargetGroup"),
    call(Scope::Frame, "elasticloadbalancing:DeleteListener"),
    call(Scope::Frame, "elasticloadbalancing:DeleteRule"),
    call(Scope::Frame, "elasticloadbalancing:DeregisterTargets"),
    call(Scope::Frame, "elasticloadbalancing:DescribeCapacityReservation"),
    call(Scope::Frame, "elasticloadbalancing:DescribeListenerAttributes"),
    call(Scope::Frame, "elasticloadbalancing:DescribeListenerCertificates"),
    call(Scope::Frame, "elasticloadbalancing:DescribeListeners"),
    call(Scope::Frame, "elasticloadbalancing:DescribeLoadBalancerAttributes"),
    call(Scope::Frame, "elasticloadbalancing:DescribeLoadBalancers"),
    call(Scope::Frame, "elasticloadbalancing:DescribeRules"),
    call(Scope::Frame, "elasticloadbalancing:DescribeTags"),
    call(Scope::Frame, "elasticloadbalancing:DescribeTargetGroupAttributes"),
    call(Scope::Frame, "elasticloadbalancing:DescribeTargetGroups"),
    call(Scope::Frame, "elasticloadbalancing:ModifyCapacityReservation"),
    call(Scope::Frame, "elasticloadbalancing:ModifyIpPools"),
    call(Scope::Frame, "elasticloadbalancing:ModifyListener"),
    call(Scope::Frame, "elasticloadbalancing:ModifyListenerAttributes"),
    call(Scope::Frame, "elasticloadbalancing:ModifyLoadBalancerAttributes"),
    call(Scope::Frame, "elasticloadbalancing:ModifyRule"),
    call(Scope::Frame, "elasticloadbalancing:ModifyTargetGroup"),
    call(Scope::Frame, "elasticloadbalancing:ModifyTargetGroupAttributes"),
    call(Scope::Frame, "elasticloadbalancing:RegisterTargets"),
    call(Scope::Frame, "elasticloadbalancing:RemoveListenerCertificates"),
    call(Scope::Frame, "elasticloadbalancing:RemoveTags"),
    call(Scope::Frame, "elasticloadbalancing:SetIpAddressType"),
    call(Scope::Frame, "elasticloadbalancing:SetRulePriorities"),
    call(Scope::Frame, "elasticloadbalancing:SetSecurityGroups"),
    call(Scope::Frame, "elasticloadbalancing:SetSubnets"),
    call(Scope::Frame, "logs:DescribeIndexPolicies"),
    call(Scope::Frame, "logs:DescribeLogGroups"),
    call(Scope::Frame, "route53:AssociateVPCWithHostedZone"),
    call(Scope::Frame, "route53:ChangeResourceRecordSets"),
    call(Scope::Frame, "route53:ChangeTagsForResource"),
    call(Scope::Frame, "route53:CreateHostedZone"),
    call(Scope::Frame, "route53:DeleteHostedZone"),
    call(Scope::Frame, "route53:GetChange"),
    call(Scope::Frame, "route53:GetHostedZone"),
    call(Scope::Frame, "route53:ListQueryLoggingConfigs"),
    call(Scope::Frame, "route53:ListResourceRecordSets"),
    call(Scope::Frame, "route53:ListTagsForResource"),
    call(Scope::Removes, "ec2:DeleteInternetGateway"),
    call(Scope::Removes, "ec2:DeleteRouteTable"),
    call(Scope::Removes, "ec2:DeleteSecurityGroup"),
    call(Scope::Removes, "ec2:DeleteSubnet"),
    call(Scope::Removes, "ec2:DeleteVpc"),
    call(Scope::Removes, "elasticloadbalancing:DeleteLoadBalancer"),
    call(Scope::Removes, "elasticloadbalancing:DeleteTargetGroup"),
    call(Scope::Roles, "iam:AddRoleToInstanceProfile"),
    call(Scope::Roles, "iam:CreateInstanceProfile"),
    call(Scope::Roles, "iam:DeleteInstanceProfile"),
    // What only takes away needs no boundary: a role that was made before there was one must be mended and go.
    call(Scope::Roles, "iam:DeleteRole"),
    call(Scope::Roles, "iam:DeleteRolePolicy"),
    call(Scope::Roles, "iam:DetachRolePolicy"),
    call(Scope::Roles, "iam:GetInstanceProfile"),
    call(Scope::Roles, "iam:GetRolePolicy"),
    call(Scope::Roles, "iam:ListAttachedRolePolicies"),
    call(Scope::Roles, "iam:ListRolePolicies"),
    call(Scope::Roles, "iam:RemoveRoleFromInstanceProfile"),
    call(Scope::Roles, "iam:TagRole"),
    call(Scope::Roles, "iam:UntagRole"),
    call(Scope::Roles, "iam:UpdateAssumeRolePolicy"),
    call(Scope::Roles, "iam:UpdateRole"),
    call(Scope::Grants, "iam:CreateRole"),
    // Roles of an environment that runs get the boundary that it names now; nobody takes one away.
    call(Scope::Grants, "iam:PutRolePermissionsBoundary"),
    call(Scope::Grants, "iam:PutRolePolicy"),
];

/// Actions of the services with REST interfaces, which a journal of calls shows by method and path.
const REST: &[(&str, &str, &str)] = &[
    ("POST", "/snapshots", "ebs:StartSnapshot"),
    ("PUT", "/snapshots/", "ebs:PutSnapshotBlock"),
    ("POST", "/snapshots/completion/", "ebs:CompleteSnapshot"),
    ("GET", "/snapshots/", "ebs:GetSnapshotBlock"),
    ("GET", "/2013-04-01/hostedzonesbyvpc", "route53:ListHostedZonesByVPC"),
];

/// The action in IAM's words of a call as the test bed's journal names it; `None` when the table lacks it.
pub fn action(journal: &str) -> Option<&'static str> {
    if let Some((method, path)) = journal.split_once(' ') {
        let found = REST.iter().filter(|(m, p, _)| *m == method && path.starts_with(p));
        let longest = found.max_by_key(|(_, p, _)| p.len()).map(|(_, _, action)| *action);
        let lists = method == "GET" && path.ends_with("/blocks");
        return if lists { Some("ebs:ListSnapshotBlocks") } else { longest };
    }
    let named = |call: &&Call| call.action.split_once(':').is_some_and(|(_, name)| name == journal);
    CALLS.iter().filter(|call| !call.scope.is_of_aws()).find(named).map(|call| call.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_as_a_journal_names_them() {
        assert_eq!(action("StartInstanceRefresh"), Some("autoscaling:StartInstanceRefresh"));
        assert_eq!(action("POST /snapshots"), Some("ebs:StartSnapshot"));
        assert_eq!(action("PUT /snapshots/snap-1/blocks/3"), Some("ebs:PutSnapshotBlock"));
        assert_eq!(action("POST /snapshots/completion/snap-1"), Some("ebs:CompleteSnapshot"));
        assert_eq!(action("GET /snapshots/snap-1/blocks"), Some("ebs:ListSnapshotBlocks"));
        assert_eq!(action("GET /snapshots/snap-1/blocks/3"), Some("ebs:GetSnapshotBlock"));
        assert_eq!(action("GET /2013-04-01/hostedzonesbyvpc"), Some("route53:ListHostedZonesByVPC"));
        assert_eq!(action("TerminateInstances"), None);
    }
}
