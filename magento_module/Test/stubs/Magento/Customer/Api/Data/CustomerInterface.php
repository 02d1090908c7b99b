<?php

declare(strict_types=1);

namespace Magento\Customer\Api\Data;

interface CustomerInterface
{
    public function getId();

    public function getAddresses();

    public function getExtensionAttributes();

    public function setExtensionAttributes($extensionAttributes);
}
