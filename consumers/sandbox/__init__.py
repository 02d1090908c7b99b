"""The AWS sandbox: a loopback stand-in for SES v2, SNS SMS, SQS and STS that boto3 talks to unmodified."""
