<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\BulkReceiptInterface;

/**
 * @inheritDoc
 */
class BulkReceipt extends AbstractSimpleObject implements BulkReceiptInterface
{
    /**
     * @inheritDoc
     */
    public function getRecordedCount()
    {
        return (int)$this->_get('recorded_count');
    }

    /**
     * @inheritDoc
     */
    public function setRecordedCount($recordedCount)
    {
        return $this->setData('recorded_count', $recordedCount);
    }

    /**
     * @inheritDoc
     */
    public function getRepeatedCount()
    {
        return (int)$this->_get('repeated_count');
    }

    /**
     * @inheritDoc
     */
    public function setRepeatedCount($repeatedCount)
    {
        return $this->setData('repeated_count', $repeatedCount);
    }

    /**
     * @inheritDoc
     */
    public function getRefused()
    {
        return $this->_get('refused') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setRefused($refused)
    {
        return $this->setData('refused', $refused);
    }
}
