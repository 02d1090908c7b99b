<?php

declare(strict_types=1);

namespace Magento\Webapi\Controller\Rest;

class RequestValidator
{
}
