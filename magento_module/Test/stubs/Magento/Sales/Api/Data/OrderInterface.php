<?php

declare(strict_types=1);

namespace Magento\Sales\Api\Data;

interface OrderInterface
{
    public function getEntityId();

    public function getExtensionAttributes();

    public function setExtensionAttributes($extensionAttributes);
}
